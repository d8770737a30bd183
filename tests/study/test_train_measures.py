"""What a run does besides plain steps: measures on its way, weight decay, raw inputs."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xhat.study.measures import Evaluate
from xhat.study.networks import build
from xhat.study.scene import Scene, floats
from xhat.study.spec import Data, Member, Probe
from xhat.study.store import Arrays
from xhat.study.tasks import Classification
from xhat.study.train import load_data, train

from .test_train import DIGITS, KINDS, SPEC, VGG, assert_same_bits


@dataclass(frozen=True)
class Ruin:
    """Keeps the loss of the step that comes next, and leaves nothing of the model as it was."""

    at: tuple[int, ...]
    kind: str = field(default="ruin", init=False)

    def take(self, scene: Scene) -> Arrays:
        assert scene.model.training
        loss = scene.losses(*scene.batch)
        with torch.no_grad():
            for tensor in (*scene.model.parameters(), *scene.model.buffers()):
                tensor.fill_(7)
        scene.model.eval()
        torch.rand(5)
        return {
            "loss": floats(loss),
            "lr": floats(scene.lr),
            "step": np.full(scene.members, scene.step),
            "row": np.ones((scene.members, 2)),
        }


@pytest.mark.parametrize("spec", KINDS.values(), ids=KINDS)
def test_measures_are_taken_before_their_steps_and_at_the_end_and_change_nothing(spec):
    at = (0, 3, spec.steps)
    _, expected = train(spec)
    _, arrays = train(replace(spec, measures=(Ruin(at),)))
    found = {name: arrays.pop(name) for name in list(arrays) if name.startswith("ruin_")}
    assert_same_bits(arrays, expected)
    members = len(spec.members)
    assert found["ruin_step"].tolist() == [[0, 3, spec.steps]] * members
    assert found["ruin_row"].shape == (members, 3, 2)
    # The batch is that of the step to come; at the end it is the last one's again.
    np.testing.assert_allclose(found["ruin_loss"][:, :2], expected["loss"][:, [0, 3]], rtol=1e-6)
    assert np.isfinite(found["ruin_loss"][:, 2]).all()
    np.testing.assert_allclose(found["ruin_lr"][:, 0], [member.lr for member in spec.members], rtol=1e-6)


@dataclass(frozen=True)
class Where:
    """Keeps nothing but that it was taken."""

    at: tuple[int, ...]
    kind: str = field(default="where", init=False)

    def take(self, scene: Scene) -> Arrays:
        return {"seen": np.full(scene.members, float(scene.step))}


def test_several_measures_have_steps_of_their_own():
    _, arrays = train(replace(SPEC, measures=(Where((0, 5)), Evaluate((20,)))))
    assert arrays["where_step"].tolist() == [0, 5]
    assert arrays["where_seen"].tolist() == [[0, 5]] * 4
    assert arrays["evaluate_step"].tolist() == [20]
    assert arrays["evaluate_accuracy"][:, 0] == pytest.approx(arrays["test_accuracy"])


def test_a_measure_beside_a_probe_leaves_the_probe_as_it_is():
    probed = replace(SPEC, probe=Probe((3,), (1.0,)))
    _, expected = train(probed)
    _, arrays = train(replace(probed, measures=(Ruin((3,)),)))
    assert arrays["probe_loss"].tobytes() == expected["probe_loss"].tobytes()


def test_a_run_that_is_given_up_keeps_the_measures_until_then():
    members = (Member(0, 1e30), Member(1, 1e30))
    _, arrays = train(replace(SPEC, members=members, measures=(Where((0, 1, 15, 20)),)))
    given_up = int(np.isnan(arrays["loss"]).all(0).argmax())
    assert given_up < 15
    assert arrays["where_step"].tolist() == [at for at in (0, 1) if at <= given_up]


# --- weight decay


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("spec", [SPEC, VGG], ids=["mlp", "vgg"])
def test_weights_decay_as_in_torchs_sgd_and_nothing_else_does(spec, momentum):
    members = tuple(replace(m, decay=0.1 * (1 + place)) for place, m in enumerate(spec.members))
    spec = replace(spec, members=members, momentum=momentum, steps=8)
    _, arrays = train(spec)
    data = load_data(DIGITS, None)
    for place, member in enumerate(members):
        model = build(spec.network, (member,), data)  # of an ensemble one with one member
        layers = [m for m in model.modules() if hasattr(m, "weight") and "Norm" not in type(m).__name__]
        decayed = [layer.weight for layer in layers]
        rest = [p for p in model.parameters() if not any(p is q for q in decayed)]
        assert decayed
        assert rest
        groups = [{"params": decayed, "weight_decay": member.decay}, {"params": rest}]
        optimizer = torch.optim.SGD(groups, lr=member.lr, momentum=momentum)
        task = Classification(data, member.seed, spec.batch_size)
        for step in range(spec.steps):
            x, y = task.batch(step)
            optimizer.zero_grad()
            out = model(x.flatten(1).t()[None])[0].t() if spec.network.is_ensemble else model(x)
            loss = F.cross_entropy(out, y)
            loss.backward()
            optimizer.step()
            assert arrays["loss"][place, step] == pytest.approx(loss.item(), rel=1e-3)


def test_without_decay_nothing_decays():
    _, plain = train(SPEC)
    mixed = tuple(replace(m, decay=0.5 if m.seed else 0.0) for m in SPEC.members)
    _, arrays = train(replace(SPEC, members=mixed))
    np.testing.assert_allclose(arrays["loss"][:2], plain["loss"][:2], rtol=1e-5)
    assert not np.allclose(arrays["loss"][2:, 5:], plain["loss"][2:, 5:], rtol=1e-3)


# --- raw inputs


def test_raw_inputs_are_the_pixels_between_0_and_1():
    standardised, raw = (load_data(Data("digits", raw=raw), None) for raw in (False, True))
    assert (float(raw.train_x.min()), float(raw.train_x.max())) == (0.0, 1.0)
    low, high = standardised.train_x.min(), standardised.train_x.max()
    torch.testing.assert_close(raw.test_x, (standardised.test_x - low) / (high - low))
    assert torch.equal(raw.train_y, standardised.train_y)
    # digits are whole numbers from 0 to 16, their standardisation is one affine map
    sixteenths = raw.train_x * 16
    torch.testing.assert_close(sixteenths, sixteenths.round(), atol=1e-3, rtol=0)


def test_raw_inputs_reach_the_run():
    _, standardised = train(SPEC)
    _, raw = train(replace(SPEC, data=replace(DIGITS, raw=True)))
    assert raw["loss"][0, 0] != standardised["loss"][0, 0]


def test_the_time_of_training_leaves_out_what_is_measured():
    record, _ = train(SPEC)
    assert 0 < record["training_seconds"] < record["seconds"]
