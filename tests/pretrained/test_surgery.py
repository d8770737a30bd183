"""Folding and diagnosing networks that others trained."""

import pytest
import torch

import xhat
from xhat.doctor import diagnose
from xhat.norms import batch_norms

from . import mobilenet_v2, photos, svhn_digits, svhn_vgg

NETWORKS = pytest.mark.parametrize(
    ("make", "images", "count"),
    [(mobilenet_v2, lambda: photos(4, size=96), 52), (svhn_vgg, lambda: svhn_digits()[0], 6)],
    ids=["mobilenet_v2", "svhn_vgg"],
)


@NETWORKS
def test_every_batch_norm_is_folded(make, images, count):
    model, x = make(), images()
    surgery = xhat.fold(model, x[:1])
    assert len(surgery.changes) == count
    assert not surgery.refusals
    assert not batch_norms(surgery.model)
    with torch.no_grad():
        before, after = model(x), surgery.model(x)
        exact = make().double()(x.double())
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5 * float(before.abs().max()))
    assert torch.equal(after.argmax(1), before.argmax(1))
    # Folding rounds once more; it may not take the outputs far from the exact ones.
    error, was = (float((out.double() - exact).abs().max()) for out in (after, before))
    assert error < 10 * was + 1e-6 * float(exact.abs().max())


@NETWORKS
def test_healthy_networks_have_no_finding_at_warning(make, images, count):
    assert diagnose(make()).at_least("warning") == ()


def test_dead_and_faint_channels_of_mobilenet_are_all_told():
    found = [f for f in diagnose(mobilenet_v2()).findings if f.code == "BN205"]
    assert sum(f.evidence["low_variance"] for f in found) == 158
