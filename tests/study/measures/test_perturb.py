import numpy as np
import pytest
import torch

from xhat.models import VGG
from xhat.study.measures import Perturb
from xhat.study.measures.perturb import CASES

from .scenes import SAMPLES, alone, broken, data, member, together

SIZES = (0.01, 0.3)
MEASURE = Perturb((0,), layers=(0,), sizes=SIZES, draws=3, samples=SAMPLES)
LINEAR = {"activation": "identity", "depth": 1}


def shift_by_hand(models: list, size: float, draw: int) -> np.ndarray:
    """Moments of (W + δ)x + b + δ' from the mean and covariance of x, in float64."""
    x = data().train_x.double().numpy()
    mean, covariance = x.mean(0), np.cov(x.T, bias=True)
    generator = torch.Generator().manual_seed(3_000_003 + draw)
    weights = torch.stack([model.hidden[0][0].weight.detach() for model in models])
    biases = torch.stack([model.hidden[0][0].bias.detach() for model in models])
    noise = [torch.randn(p.shape, generator=generator).double().numpy() for p in (weights, biases)]
    found = []
    for w, b, dw, db in zip(weights.double().numpy(), biases.double().numpy(), *noise, strict=True):
        w_ = w + size * dw * np.linalg.norm(w) / np.linalg.norm(dw)
        b_ = b + size * db * np.linalg.norm(b) / np.linalg.norm(db)
        variance, variance_ = (np.einsum("ui,ij,uj->u", m, covariance, m) for m in (w, w_))
        moved = (w_ @ mean + b_ - w @ mean - b) ** 2 / ((variance + variance_) / 2)
        found.append(np.sqrt(np.mean(moved + (np.log(variance_ / variance) / 2) ** 2)))
    return np.array(found)


@pytest.mark.parametrize("count", [1, 2])
def test_a_linear_layers_shift_is_the_closed_forms(count):
    models = [member(seed, "none", **LINEAR) for seed in range(count)]
    expected = np.stack(
        [sum(shift_by_hand(models, size, draw) for draw in range(3)) / 3 for size in SIZES], 1
    )
    for scene in [together(*models)] + ([alone(models[0])] if count == 1 else []):
        found = MEASURE.take(scene)
        assert found["shift"].shape == (count, len(CASES), 1, 2)
        assert found["shift"][:, CASES.index("batch"), 0] == pytest.approx(expected, rel=1e-4)
        assert found["alive"] == pytest.approx(np.ones((count, len(CASES), 1, 2)))


def test_batch_norm_takes_the_noise_back_with_the_batchs_statistics_and_not_with_old_ones():
    batch, none = member(0, **LINEAR), member(0, "none", **LINEAR)
    none.load_state_dict(batch.state_dict(), strict=False)
    shift = MEASURE.take(alone(batch))["shift"][0, :, 0]
    plain = MEASURE.take(alone(none))["shift"][0, CASES.index("batch"), 0]
    assert shift[CASES.index("batch")] == pytest.approx(np.zeros(2), abs=1e-4)
    # With old statistics BN is an affine map of each unit, under which the shift stays what it is.
    assert shift[CASES.index("running")] == pytest.approx(plain, rel=1e-3)
    assert (shift[CASES.index("affine")] > 0.1 * np.array(SIZES)).all()


def test_the_noise_on_weights_is_the_same_with_batch_norm_and_without():
    models = [member(0, norm) for norm in ("batch", "none")]
    models[1].load_state_dict(models[0].state_dict(), strict=False)
    (batch, none) = (MEASURE.take(alone(model))["shift"][0] for model in models)
    assert batch[CASES.index("batch")] != pytest.approx(none[0], rel=0.01)
    assert none[0] == pytest.approx(none[1])
    assert none[0] == pytest.approx(none[2])  # it has no γ and β


def test_units_that_do_not_vary_are_left_out():
    model = member(0, "none", depth=1)
    before = MEASURE.take(alone(model))["alive"]
    with torch.no_grad():
        model.hidden[0][0].weight[2] = 0.0  # type: ignore[index]
    found = MEASURE.take(alone(model))
    assert before == pytest.approx(np.ones_like(before))
    assert found["alive"] == pytest.approx(0.8 * np.ones_like(before))
    assert np.isfinite(found["shift"]).all()
    with torch.no_grad():
        model.hidden[0][0].weight.zero_()  # type: ignore[index]
    assert np.isnan(MEASURE.take(alone(model))["shift"]).all()


def test_a_member_that_is_not_finite_has_no_shift():
    found = MEASURE.take(together(broken(member(0)), member(1)))
    assert np.isnan(found["shift"][0]).all()
    assert np.isfinite(found["shift"][1]).all()


def test_weights_come_out_as_they_went_in():
    model = member(0)
    before = {name: values.clone() for name, values in model.named_parameters()}
    MEASURE.take(alone(model))
    assert all(torch.equal(before[name], values) for name, values in model.named_parameters())


def test_a_convolutions_units_are_its_channels():
    torch.manual_seed(0)
    model = VGG(1, 3, width=2)
    scene = alone(model)
    scene.task.fixed = lambda samples: torch.randn(samples, 1, 8, 8)
    found = Perturb((0,), layers=(1, 4), sizes=SIZES, draws=1, samples=16).take(scene)
    assert found["shift"].shape == (1, len(CASES), 2, 2)
    assert np.isfinite(found["shift"]).all()
