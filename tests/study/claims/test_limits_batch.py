import pytest
import torch
import torch.nn.functional as F

from xhat.models import MLP, VGG
from xhat.study.claim import Context
from xhat.study.claims import CLAIMS
from xhat.study.claims.limits_batch import SMALL_RATES
from xhat.study.spec import Member, Network, TrainSpec

from ..made import CHANCE, USERS, C, Fate, I, S, judged, made_run, primary, shaken

CLAIM = CLAIMS["limits-batch"]


def batches(lost: dict[str, float], *, by: float = 0.002, usual: dict[str, float] | None = None):
    """What each arm loses from the usual batch size to any smaller one, as a share."""
    level = {"batch": 0.8, "none": 0.7} | (usual or {})

    def fates_of(spec: TrainSpec):
        small = spec.batch_size < 64  # no usual size of quick or of a user's network is smaller

        def fates(network: Network, member: Member) -> Fate:
            start = level.get(network.norm, 0.78)
            if member.lr != 0.1:
                return Fate(final=0.9, accuracy=1.0)
            return Fate(accuracy=(start - small * lost.get(network.norm, 0.1)) * shaken(member, by))

        return fates

    return fates_of


def result(fates_of, context=None):
    """As ``judged``, for fates that hang on the batch size."""
    measurement = CLAIM.measure(context or Context("quick"))
    wanted = next(measurement)
    while True:
        try:
            wanted = measurement.send([made_run(spec, fates_of(spec)) for spec in wanted])
        except StopIteration as stop:
            return stop.value


@pytest.mark.parametrize(
    ("lost", "by", "verdict"),
    [
        ({"batch": 0.3}, 0.002, S),
        ({"batch": 0.1}, 0.002, C),  # both lose alike: fewer samples, not BN
        ({"batch": 0.0}, 0.002, C),
        ({"batch": 0.14}, 0.3, I),
    ],
)
def test_limits_batch(lost, by, verdict):
    def noisy(spec: TrainSpec):
        fates = batches(lost, by=0.0)(spec)

        def with_noise(network: Network, member: Member) -> Fate:
            fate = fates(network, member)
            noise = shaken(member, by) if network.norm == "batch" and spec.batch_size == 2 else 1.0
            return Fate(final=fate.final, accuracy=fate.accuracy * noise)

        return with_noise

    assert result(noisy).verdict == verdict


def test_limits_batch_takes_what_the_other_loses_off():
    effects = primary(result(batches({"batch": 0.3, "layer": 0.1, "group": 0.2}, by=0.0)))
    assert [effect.estimate for effect in effects.values()] == pytest.approx([10.0, 20.0])  # VGG, MLP
    assert [effect.seeds for effect in effects.values()] == [4, 10]


def test_limits_batch_leaves_out_seeds_that_do_not_train_at_the_usual_size():
    def fates_of(spec: TrainSpec):
        fates = batches({"batch": 0.3})(spec)

        def some(network: Network, member: Member) -> Fate:
            gone = member.seed == 1 and network.norm == "batch" and spec.batch_size == 64
            return Fate(final=CHANCE, accuracy=0.1) if gone else fates(network, member)

        return some

    effects = primary(result(fates_of))
    assert {effect.seeds for effect in effects.values()} == {3, 9}
    assert {effect.verdict for effect in effects.values()} == {S}


def test_limits_batch_chooses_small_rates_by_the_loss_in_evaluation():
    """At 0.01 the last batches happen to be easy; in evaluation 0.1 is better."""

    def fates_of(spec: TrainSpec):
        def fates(network: Network, member: Member) -> Fate:
            if spec.batch_size == 64:
                return Fate(final=0.3 + abs(member.lr - 0.1), accuracy=0.8)
            evaluated = 0.3 if member.lr == 0.1 else 0.5
            found = {"accuracy": 0.5, "test_loss": evaluated, "train_accuracy": 0.5, "train_loss": evaluated}
            return Fate(
                final=0.1 if member.lr == SMALL_RATES[1] else 0.2,
                accuracy=0.7 if member.lr == 0.1 else 0.2,
                measured={
                    "evaluate": lambda measure, step: (
                        found if measure.train else {"accuracy": 0.5, "test_loss": 0.3}
                    )
                },
            )

        return fates

    found = result(fates_of)
    assert all(effect.estimate == pytest.approx(0.0) for effect in primary(found).values())
    assert all("batch norm 70.0%" in words for words in found.found)
    gaps = [e for e in found.effects if "evaluation − training" in e.name]
    assert [gap.estimate for gap in gaps] == pytest.approx([0.1, 0.1])


def test_limits_batch_shows_the_sizes_between_outside_the_verdict():
    """BN loses nothing but at 2."""

    def fates_of(spec: TrainSpec):
        fates = batches({"batch": 0.0, "layer": 0.0, "group": 0.0}, by=0.0)(spec)

        def only_at_2(network: Network, member: Member) -> Fate:
            fate = fates(network, member)
            gone = 0.4 if network.norm == "batch" and spec.batch_size == 2 else 0.0
            return Fate(final=fate.final, accuracy=fate.accuracy - gone)

        return only_at_2

    found = result(fates_of, Context("full"))
    lost = {e.name: (e.estimate, e.primary) for e in found.effects if e.name.startswith("lead of BN lost")}
    assert lost == {
        "lead of BN lost from 128 samples to 8, VGG": (pytest.approx(0.0, abs=1e-9), False),
        "lead of BN lost from 128 samples to 2, VGG": (pytest.approx(40.0), True),
        "lead of BN lost from 64 samples to 16, MLP": (pytest.approx(0.0, abs=1e-9), False),
        "lead of BN lost from 64 samples to 8, MLP": (pytest.approx(0.0, abs=1e-9), False),
        "lead of BN lost from 64 samples to 4, MLP": (pytest.approx(0.0, abs=1e-9), False),
        "lead of BN lost from 64 samples to 2, MLP": (pytest.approx(40.0), True),
    }
    vgg, mlp = found.found
    assert vgg.startswith(
        "VGG: BN's lead over group norm, against that at 128 samples a batch: +0.0 points at 8, -40.0 points at 2. "
        "With 2 samples the last two layers, whose maps are 1×1, have m = 2 values a channel"
    )
    assert mlp.startswith(
        "MLP: BN's lead over layer norm, against that at 64 samples a batch: +0.0 points at 16, "
    )
    assert "With 2 samples a unit has m = 2 values" in mlp


def test_limits_batch_with_recalibrated_statistics():
    """The network is as good as ever, but its running averages are of no use."""

    def fates_of(spec: TrainSpec):
        fates = batches({"batch": 0.3, "layer": 0.0, "group": 0.0}, by=0.0)(spec)

        def stale(network: Network, member: Member) -> Fate:
            kept = {"accuracy": 0.8 if network.norm == "batch" else 0.78, "test_loss": 0.3}
            fate = fates(network, member)
            return Fate(fate.final, fate.accuracy, measured={"recalibrated": lambda measure, step: kept})

        return stale

    found = result(fates_of)
    anew = [e for e in found.effects if "recalibrated statistics" in e.name]
    assert [(e.estimate, e.primary) for e in anew] == [(pytest.approx(0.0, abs=1e-9), False)] * 2
    assert [e.estimate for e in primary(found).values()] == pytest.approx([30.0, 30.0])


@pytest.mark.parametrize("make", [lambda: VGG(1, 10, width=4), lambda: MLP(196, 10, width=8, depth=3)])
def test_batches_of_two_let_no_gradient_below_bn(make):
    """m − 2 = 0: of two values a channel BN's backward pass leaves none, but for ε."""

    def of_first_layer(samples: int) -> float:
        torch.manual_seed(0)
        model = make().double()
        for module in model.modules():
            if hasattr(module, "running_mean"):
                module.eps = 1e-12
        shape = (samples, 1, 14, 14) if isinstance(model, VGG) else (samples, 196)
        F.cross_entropy(model(torch.randn(shape).double()), torch.arange(samples) % 10).backward()
        return float(next(model.parameters()).grad.norm())

    assert of_first_layer(2) < 1e-6 * of_first_layer(4)


def test_limits_batch_on_a_users_network_is_held_against_none():
    (effect,) = primary(result(batches({"batch": 0.3, "none": 0.1}, by=0.0), USERS)).values()
    assert (effect.verdict, effect.seeds, effect.estimate) == (S, 4, pytest.approx(20.0))
    assert "no normalisation" in effect.unit


def test_limits_batch_where_nothing_trains():
    found = judged(CLAIM, lambda network, member: Fate(final=CHANCE, accuracy=0.1))
    assert {(effect.seeds, effect.verdict) for effect in primary(found).values()} == {(0, I)}
