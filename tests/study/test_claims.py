import importlib
import math
import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from xhat.study import claims as package
from xhat.study.claim import Context, Subject
from xhat.study.claims import CLAIMS
from xhat.study.claims.diverging_distributions import ABOVE, CONVERGES, EDGE
from xhat.study.claims.larger_lr import RATES
from xhat.study.result import ClaimResult, Effect, Figure, Panel
from xhat.study.spec import Data, Member, Network
from xhat.study.subjects import users

from .made import CHANCE, Fate, Fates, judged

S, C, I = "supported", "contradicted", "inconclusive"  # noqa: E741
NAN = math.nan
USERS = Context("quick", user=users("quick", "net:make", "net:data"))


def shaken(member: Member, by: float = 0.02) -> float:
    """A factor close to 1 that differs from seed to seed."""
    return 1 + by * math.sin(10 * member.seed + 1)


def primary(result: ClaimResult) -> dict[str, Effect]:
    return {effect.name: effect for effect in result.effects if effect.primary}


# --- smoother-loss


def smooth(factor: float, *, by: float = 0.02) -> Fates:
    """Without BN ``factor`` times as rough as with it."""

    def fates(network: Network, member: Member) -> Fate:
        plain = network.norm == "none"
        return Fate(rough=(factor * shaken(member, by) if plain else 1.0))

    return fates


@pytest.mark.parametrize(
    ("fates", "verdict"),
    [(smooth(2.0), S), (smooth(1.0), C), (smooth(0.3), C), (smooth(1.2), I), (smooth(1.3, by=0.9), I)],
)
def test_smoother_loss(fates, verdict):
    result = judged(CLAIMS["smoother-loss"], fates)
    assert result.verdict == verdict
    assert {effect.verdict for effect in primary(result).values()} == {verdict}


def test_smoother_loss_says_the_ratio_and_its_pairs():
    effects = primary(judged(CLAIMS["smoother-loss"], smooth(2.0)))
    assert len(effects) == 6  # three measures on two networks
    for name, effect in effects.items():
        assert effect.estimate == pytest.approx(2.0, rel=0.02)
        assert effect.seeds == (4 if "VGG" in name else 10)


def test_smoother_loss_leaves_out_pairs_that_do_not_train():
    def fates(network: Network, member: Member) -> Fate:
        fate = smooth(2.0)(network, member)
        # smooth and untrained: it would speak against the claim
        return (
            replace(fate, final=CHANCE, rough=1e-6) if member.seed == 1 and network.norm == "none" else fate
        )

    result = judged(CLAIMS["smoother-loss"], fates)
    assert result.verdict == S
    assert {effect.seeds for effect in primary(result).values()} == {3, 9}
    assert any("1 of 4 runs do not train" in words for words in result.found)
    curves = [curve.name for figure in result.figures for panel in figure.panels for curve in panel.curves]
    assert "no normalisation, does not train (1 seeds)" in curves


@pytest.mark.parametrize("final", [CHANCE, NAN])
def test_smoother_loss_decides_nothing_without_pairs(final):
    def fates(network: Network, member: Member) -> Fate:
        return Fate(final=final if network.norm == "none" else 0.3)

    result = judged(CLAIMS["smoother-loss"], fates)
    assert result.verdict == I
    assert {effect.seeds for effect in primary(result).values()} == {0}
    assert all("0 pairs of runs could be compared" in effect.note for effect in primary(result).values())


# --- larger-lr


def train_up_to(none: float, batch: float, *, layer: float = 0.5, by: float = 0.0) -> Fates:
    """Rates from 0.02 to a largest one train."""

    def fates(network: Network, member: Member) -> Fate:
        largest = {"none": none, "batch": batch, "layer": layer}[network.norm] * 2 ** (by * (member.seed % 2))
        return Fate(final=0.3 if 0.02 <= member.lr <= largest * 1.001 else NAN)

    return fates


@pytest.mark.parametrize(
    ("fates", "verdict", "estimate"),
    [
        (train_up_to(0.1, 0.8), S, 8.0),
        (train_up_to(0.1, 0.1), I, 1.0),  # alike on a grid in factors of two
        (train_up_to(0.8, 0.1), C, 1 / 8),
        (train_up_to(0.1, 0.2), I, 2.0),  # the threshold itself
    ],
)
def test_larger_lr(fates, verdict, estimate):
    result = judged(CLAIMS["larger-lr"], fates)
    assert result.verdict == verdict
    assert len(primary(result)) == 2
    for effect in primary(result).values():
        assert (effect.verdict, effect.estimate) == (verdict, pytest.approx(estimate))
        assert not effect.at_least


def test_larger_lr_is_undecided_where_seeds_disagree():
    def fates(network: Network, member: Member) -> Fate:
        high = (network.norm == "batch") == (member.seed % 2 == 0)
        return train_up_to(*((12.8, 12.8) if high else (0.2, 0.2)))(network, member)

    assert judged(CLAIMS["larger-lr"], fates).verdict == I


def test_larger_lr_says_at_least_where_bn_trains_at_the_end_of_the_grid():
    result = judged(CLAIMS["larger-lr"], train_up_to(0.1, RATES[-1]))
    assert result.verdict == S
    assert all(effect.at_least for effect in primary(result).values())
    assert not any(effect.at_least for effect in result.effects if not effect.primary)
    assert all("(the grid's end)" in words for words in result.found)


def test_larger_lr_leaves_out_seeds_without_any_rate_that_trains():
    def fates(network: Network, member: Member) -> Fate:
        fails = network.norm == "none" and member.seed == 0
        return Fate(final=CHANCE) if fails else train_up_to(0.1, 0.8)(network, member)

    result = judged(CLAIMS["larger-lr"], fates)
    assert {effect.seeds for effect in primary(result).values()} == {3, 9}
    assert any("none trains" in row for table in result.tables for row in table.rows)


def test_larger_lr_sees_through_a_rate_that_is_too_small():
    def fates(network: Network, member: Member) -> Fate:
        fate = train_up_to(0.4, 3.2)(network, member)
        return Fate(final=CHANCE) if member.lr < 0.3 else fate

    assert judged(CLAIMS["larger-lr"], fates).verdict == S


def test_larger_lr_on_a_users_network():
    result = judged(CLAIMS["larger-lr"], train_up_to(0.1, 0.8), USERS)
    (effect,) = result.effects
    assert (effect.verdict, effect.seeds, effect.estimate) == (S, 4, pytest.approx(8.0))
    assert "net:make" in effect.name


# --- deep-saturating


def saturating(
    batch: float, *, small: float = 0.1, xavier: float = 0.2, gradient: float = 1000.0, by: float = 0.0
):
    """Accuracies at each arm's best rate, 1; other rates have a larger loss and a perfect accuracy."""

    def fates(network: Network, member: Member) -> Fate:
        accuracy = {"batch": batch, "layer": 0.3, "none": {"small": small, "xavier": xavier}.get(member.init)}
        if member.lr != 1.0:
            return Fate(final=0.9, accuracy=1.0, gradient=1.0)
        noise = by * (-1) ** member.seed
        return Fate(accuracy=accuracy[network.norm] + noise * (network.norm == "batch"))

    def with_gradients(network: Network, member: Member) -> Fate:
        fate = fates(network, member)
        return replace(fate, gradient=shaken(member) * (gradient if network.norm == "batch" else 1.0))

    return with_gradients


@pytest.mark.parametrize(
    ("fates", "verdict"),
    [
        (saturating(0.8), S),
        (saturating(0.25, gradient=2.0), C),
        (saturating(0.1, gradient=0.01), C),
        (saturating(0.3, by=0.3), I),
        (saturating(0.8, small=0.8), I),  # the better of both plain arms counts; the gradient is better still
    ],
)
def test_deep_saturating(fates, verdict):
    assert judged(CLAIMS["deep-saturating"], fates).verdict == verdict


def test_deep_saturating_holds_bn_against_the_better_plain_arm():
    effects = primary(judged(CLAIMS["deep-saturating"], saturating(0.8, small=0.5, xavier=0.2)))
    accuracy = [effect for name, effect in effects.items() if name.startswith("test accuracy")]
    gradient = [effect for name, effect in effects.items() if name.startswith("gradient")]
    assert [effect.estimate for effect in accuracy] == pytest.approx([30.0, 30.0])
    assert [effect.estimate for effect in gradient] == pytest.approx([1000.0])
    assert {effect.seeds for effect in effects.values()} == {10}
    assert all("20 layers" in name for name in effects)  # the deepest decides


def test_deep_saturating_without_a_gradient_is_undecided_not_wrong():
    def fates(network: Network, member: Member) -> Fate:
        return replace(saturating(0.8)(network, member), gradient=1.0 if network.norm == "batch" else 0.0)

    result = judged(CLAIMS["deep-saturating"], fates)
    assert result.verdict == I


def test_deep_saturating_rules_out_a_rate_at_which_a_seed_diverges():
    def fates(network: Network, member: Member) -> Fate:
        if member.lr == 3.0:  # the least loss, but not for all
            return Fate(final=NAN if member.seed == 3 else 0.01, accuracy=0.0)
        return saturating(0.8)(network, member)

    assert judged(CLAIMS["deep-saturating"], fates).verdict == S


# --- init-insensitive


def accuracies(batch: dict[float, float], none: dict[float, float], *, by: float = 0.002) -> Fates:
    """Accuracy by the scale up to which it holds, from small scales to large."""

    def fates(network: Network, member: Member) -> Fate:
        steps = batch if network.norm == "batch" else none
        accuracy = next(value for scale, value in steps.items() if member.scale <= scale)
        if member.lr != 0.1:
            return Fate(final=2.0, accuracy=0.0)
        return Fate(final=0.3 if accuracy > 0.5 else CHANCE, accuracy=accuracy * shaken(member, by))

    return fates


WIDE, NARROW = {1000.0: 0.85}, {0.5: 0.1, 3.0: 0.8, 1000.0: 0.1}


@pytest.mark.parametrize(
    ("batch", "none", "verdict"),
    [
        (WIDE, NARROW, S),
        (NARROW, WIDE, C),
        (WIDE, WIDE, I),  # no wider, but insensitive: the parts disagree
        ({3.0: 0.85, 1000.0: 0.7}, NARROW, I),  # wider, but it loses 15 points
    ],
)
def test_init_insensitive(batch, none, verdict):
    result = judged(CLAIMS["init-insensitive"], accuracies(batch, none))
    assert result.verdict == verdict
    wider, lost = primary(result).values()
    assert wider.seeds == (0 if batch is none else 10)  # two open ranges: neither is known to be wider
    assert lost.seeds == 10


def test_init_insensitive_counts_decades():
    result = judged(CLAIMS["init-insensitive"], accuracies(WIDE, NARROW))
    wider, lost = primary(result).values()
    # 7 scales 2/3 of a decade apart: all work against one of them
    assert wider.estimate == pytest.approx((7 - 1) * 2 / 3)
    assert lost.estimate == pytest.approx(0.0, abs=0.1)
    assert (lost.rule, lost.threshold) == ("within", 5.0)


def test_init_insensitive_leaves_out_seeds_that_never_train():
    def fates(network: Network, member: Member) -> Fate:
        return Fate(final=CHANCE, accuracy=0.1)

    result = judged(CLAIMS["init-insensitive"], fates)
    assert result.verdict != S
    wider, lost = primary(result).values()
    assert (lost.seeds, lost.verdict) == (0, I)
    assert wider.estimate == 0.0
    assert any("workable for most seeds at no scale" in words for words in result.found)


# --- diverging-distributions


def condition(network: Network, member: Member) -> str:
    """Name the condition that a recorded run belongs to; rates up to 0.4 train without BN, to 3.2 with it."""
    if dict(network.options).get("activation") == "sigmoid":
        return "sigmoid"
    return f"{network.norm}, lr {member.lr:g}"


# By condition the drift and the final loss, whose ranks are not connected. The sigmoid net is collapsed.
UNRELATED = {
    "sigmoid": (1e-4, CHANCE),
    "none, lr 0.1": (0.004, 0.7),
    "none, lr 0.4": (0.006, 0.6),
    "none, lr 0.5": (0.005, 0.9),
    "none, lr 0.8": (0.009, 0.4),  # one step above the largest
    "none+noise, lr 0.1": (0.007, 0.8),
    "batch, lr 0.1": (0.003, 0.2),
    "batch, lr 6.4": (0.008, 0.5),
    "batch+noise, lr 0.1": (0.002, 0.3),
}
LOSSES = sorted(loss for _, loss in UNRELATED.values())
RELATED = {name: (0.001 * (1 + LOSSES.index(loss)), loss) for name, (_, loss) in UNRELATED.items()}


def moving(conditions: dict[str, tuple[float, float]], *, period: bool, gone: str = "") -> Fates:
    """Means drift in every condition; in the one above the largest rate they swing too, or wander."""

    def wave(step: int) -> float:
        return 0.01 * (-1) ** step if period else 0.02 * math.sin(step / 10)

    def fates(network: Network, member: Member) -> Fate:
        name = condition(network, member)
        drift, loss = conditions[name]
        if name == gone:
            return Fate(final=NAN, mean=lambda step: NAN if step > 60 else 0.0)
        drift *= shaken(member)
        swings = name == "none, lr 0.8"
        return Fate(final=loss, mean=lambda step: drift * step + swings * wave(step))

    return fates


def diverging(fates: Fates) -> ClaimResult:
    return judged(CLAIMS["diverging-distributions"], fates, unrecorded=train_up_to(0.4, 3.2))


@pytest.mark.parametrize(
    ("conditions", "period", "verdicts", "verdict"),
    [
        (UNRELATED, True, [S, S, S], S),
        (RELATED, False, [C, C, C], C),
        (UNRELATED, False, [S, C, S], I),
        (RELATED, True, [C, S, C], I),
    ],
)
def test_diverging_distributions(conditions, period, verdicts, verdict):
    result = diverging(moving(conditions, period=period))
    effects = primary(result)
    assert [effect.verdict for effect in effects.values()] == verdicts
    assert result.verdict == verdict
    assert {effect.seeds for effect in effects.values()} == {10}
    for asked, words in zip(verdicts[:2], result.found[-3:-1], strict=True):
        assert {S: "? Yes: ", C: "? No: "}[asked] in words
    assert {S: "inside the margin", C: "outside the margin"}[verdicts[2]] in result.found[-1]


def test_diverging_distributions_says_what_was_measured():
    result = diverging(moving(UNRELATED, period=True))
    stabler, period, _ = primary(result).values()
    # the least drift of the others is 0.002 of a standard deviation a step, that of the collapsed 0.0001
    assert stabler.estimate == pytest.approx(20.0, rel=0.1)
    assert period.estimate == pytest.approx(2.0, rel=0.1)
    assert ABOVE in period.name
    assert "“plain sigmoid, lr 0.1”" in result.found[0]
    assert any("loss at chance, in: plain sigmoid, lr 0.1." in words for words in result.found)
    (table, _) = result.tables
    assert {row[0] for row in table.rows} >= {CONVERGES, EDGE, ABOVE}
    assert [row[2] for row in table.rows if "sigmoid" in row[0]] == [10]  # collapsed


@pytest.mark.parametrize("gone", ["none, lr 0.5", "none, lr 0.8"])
def test_diverging_distributions_counts_networks_that_became_infinite(gone):
    result = diverging(moving(UNRELATED, period=True, gone=gone))
    assert any("10 of 90 networks became infinite" in words for words in result.found)
    stabler, period, related = primary(result).values()
    assert (stabler.verdict, related.seeds) == (S, 10)
    assert (period.seeds, period.verdict) == ((0, I) if gone == "none, lr 0.8" else (10, S))


def test_diverging_distributions_with_a_pair_of_seeds_that_disagree_is_undecided():
    def fates(network: Network, member: Member) -> Fate:
        return moving(RELATED if member.seed % 2 else UNRELATED, period=bool(member.seed % 2))(
            network, member
        )

    assert {effect.verdict for effect in primary(diverging(fates)).values()} == {I}


@pytest.mark.parametrize(
    "drift",
    [
        0.0,
        NAN,
    ],
)
def test_diverging_distributions_where_nothing_moves_or_all_is_gone(drift):
    def fates(network: Network, member: Member) -> Fate:
        return Fate(final=CHANCE if drift == 0.0 else NAN, mean=lambda step: drift * step)

    result = diverging(fates)
    # networks that stand still do not oscillate: the one hypothesis that is decided then
    assert result.verdict == (C if drift == 0.0 else I)
    assert bool(result.figures) == (drift == 0.0)


def test_diverging_distributions_on_a_users_network():
    drifts = {("none", 0.1): 0.004, ("none", 0.5): 1e-4, ("none", 5.0): 0.006}

    def fates(network: Network, member: Member) -> Fate:
        drift = drifts.get((network.norm, member.lr), 0.005 * member.lr) * shaken(member)
        return Fate(
            final=CHANCE if drift < 1e-3 and network.norm == "none" else 0.5, mean=lambda s: drift * s
        )

    result = judged(CLAIMS["diverging-distributions"], fates, USERS)
    stabler, period, _ = primary(result).values()
    assert (stabler.verdict, stabler.seeds) == (S, 4)
    assert (period.verdict, period.seeds) == (I, 0)  # no condition just above the largest rate


# --- whatever a claim finds


def panels(figure: Figure) -> Iterator[Panel]:
    yield from figure.panels
    for frame in figure.frames:
        yield from frame.panels


def drifting(network: Network, member: Member) -> Callable[[int], float]:
    pace = 0.01 * shaken(member) * (1 + member.lr) * (1 + 0.1 * len(network.norm))
    return lambda step: pace * step


def all_train(network: Network, member: Member) -> Fate:
    return Fate(final=0.3 * shaken(member) + 0.01 * member.lr, mean=drifting(network, member))


def none_trains(network: Network, member: Member) -> Fate:
    final = CHANCE * (1 + 0.001 * shaken(member) / (1 + member.lr))
    gradient = float(network.norm == "batch")
    return Fate(final, accuracy=0.1, rough=0.0, gradient=gradient, mean=drifting(network, member))


def none_is_finite(network: Network, member: Member) -> Fate:
    return Fate(NAN, 0.1, NAN, NAN, lambda step: NAN)


def only_bn_trains(network: Network, member: Member) -> Fate:
    return (all_train if network.norm == "batch" else none_is_finite)(network, member)


OUTCOMES = {fates.__name__: fates for fates in (all_train, none_trains, none_is_finite, only_bn_trains)}


@pytest.mark.parametrize("fates", OUTCOMES.values(), ids=OUTCOMES)
@pytest.mark.parametrize("preset", ["smoke", "quick", "full"])
@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_every_result_is_whole(claim, preset, fates):
    result = judged(claim, fates, Context(preset))
    assert result.text is claim.text
    assert result.verdict in (S, C, I)
    assert primary(result)
    assert len({effect.name + effect.unit for effect in result.effects}) == len(result.effects)
    assert result.runs
    assert len(set(result.runs)) == len(result.runs)
    assert all(words.strip() == words and words[-1] == "." for words in result.found)
    for figure in result.figures:
        assert all(len(text) > 10 for text in (figure.title, figure.caption, figure.alt))
        assert figure.panels
        for panel in panels(figure):
            assert all((panel.title, panel.x.title, panel.y.title))
            for curve in panel.curves:
                assert len(curve.x) == len(curve.y)
    assert len({figure.id for figure in result.figures}) == len(result.figures)
    for table in result.tables:
        assert {len(row) for row in table.rows} <= {len(table.columns)}


@pytest.mark.parametrize("name", [name for name, claim in CLAIMS.items() if claim.takes_networks])
@pytest.mark.parametrize("fates", OUTCOMES.values(), ids=OUTCOMES)
def test_every_claim_that_takes_networks_takes_a_users(name, fates):
    for context in (USERS, replace(USERS, preset="smoke", seeds=2)):
        result = judged(CLAIMS[name], fates, context)
        assert all(effect.seeds <= (context.seeds or 4) for effect in result.effects)
        assert any("net:make" in str(row) for table in result.tables for row in table.rows)


def asked(name: str, context: Context) -> list:
    return list(next(CLAIMS[name].measure(context)))


@pytest.mark.parametrize("name", CLAIMS)
def test_arms_differ_in_nothing_but_the_normalisation(name):
    """Paired: each seed is trained in every arm, with the same batches, steps and rates."""
    specs = asked(name, Context("quick"))
    settings: dict[str, set] = {}
    for spec in specs:
        plain = replace(spec, network=spec.network.with_norm("none"), members=())
        rates = {(plain, member.seed, member.lr, member.scale) for member in spec.members}
        settings.setdefault(spec.network.norm, set()).update(rates)
    assert {"none", "batch"} <= settings.keys()
    assert settings["none"] == settings["batch"]


@pytest.mark.parametrize("name", CLAIMS)
def test_presets_and_arguments_reach_the_runs(name):
    assert {spec.steps for spec in asked(name, Context("smoke"))} == {12}
    for spec in asked(name, Context("quick", data="digits", seeds=3)):
        assert {member.seed for member in spec.members} <= {0, 1, 2}
        assert spec.data.name in ("digits", "gaussian")


@pytest.mark.parametrize("name", [name for name, claim in CLAIMS.items() if claim.takes_networks])
def test_the_steps_of_a_users_network_can_be_chosen(name):
    shorter = 77 * 5 // 6  # larger-lr takes many runs, see its _shortened
    assert {spec.steps for spec in asked(name, replace(USERS, steps=77))} <= {77, shorter}


@pytest.mark.parametrize(
    "steps",
    [10, 48, 60],
)
def test_few_steps_of_a_users_network_are_enough_for_the_distributions(steps):
    result = judged(
        CLAIMS["diverging-distributions"],
        all_train,
        replace(USERS, steps=steps),
    )
    assert result.verdict in (S, C, I)


def test_claims_share_runs():
    larger, diverging_ = (asked(name, Context("quick")) for name in ("larger-lr", "diverging-distributions"))
    assert set(diverging_) <= set(larger)


# --- the registry


def modules() -> dict[str, object]:
    names = [found.name for found in pkgutil.iter_modules(package.__path__) if not found.name.startswith("_")]
    return {name: importlib.import_module(f"{package.__name__}.{name}") for name in names}


def test_every_module_of_the_package_is_registered_under_its_name():
    assert {name.replace("_", "-"): module.CLAIM for name, module in modules().items()} == CLAIMS
    assert all(claim.text.id == name for name, claim in CLAIMS.items())


@pytest.mark.parametrize(
    "name",
    modules(),
)
def test_a_claims_file_says_source_expectation_cost_and_command(name):
    words = " ".join(modules()[name].__doc__.split())
    claim = name.replace("_", "-")
    assert words.startswith(f"{claim}: ")
    assert re.search(r"Source: |arXiv \d{4}\.\d{5}", words)
    assert re.search(r"Expected|No number is known", words)
    assert "Cost on 2 cores: quick about" in words
    assert f"Command: xhat study --claims {claim}" in words


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_a_claims_words_are_whole(claim):
    for name, words in vars(claim.text).items():
        assert words, name
        assert "  " not in words, name
    assert claim.text.threshold.lower().startswith(("supported", "three hypotheses"))
    assert re.search(r"\d", claim.text.threshold)


def test_subjects():
    subject = Subject("a", Network("mlp"), Data(), 3, 10, 8)
    assert not subject.is_users
    assert users("quick", "net:make", "net:data").is_users
    assert Context("quick", seeds=7).subject(subject).seeds == 7
    assert Context("quick", data="digits").subject(subject).data.name == "digits"
    assert Context("quick", user=subject).subjects(replace(subject, name="b")) == (subject,)


# --- what a grid or a run leaves open


def test_larger_lr_knows_nothing_where_both_arms_reach_the_grids_end():
    result = judged(CLAIMS["larger-lr"], train_up_to(1000.0, 1000.0, layer=1000.0))
    assert result.verdict == I
    assert {effect.seeds for effect in primary(result).values()} == {0}


def test_larger_lr_counts_seeds_of_bn_that_train_at_no_rate():
    def fates(network: Network, member: Member) -> Fate:
        fails = network.norm == "batch" and member.seed % 2 == 0
        return replace(train_up_to(0.1, 3.2)(network, member), **({"final": NAN} if fails else {}))

    result = judged(CLAIMS["larger-lr"], fates)
    assert result.verdict != S
    for effect in primary(result).values():
        assert "train at no rate and count as half the lowest" in effect.note


def test_deep_saturating_says_where_a_best_rate_lies_at_the_grids_end():
    def fates(network: Network, member: Member) -> Fate:
        return Fate(final=0.3 + member.lr / 100)  # the lowest rate is best

    notes = [effect.note for effect in primary(judged(CLAIMS["deep-saturating"], fates)).values()]
    assert sum("grid's end: no normalisation, N(0, 0.01²), " in note for note in notes) == 2


def test_a_walk_that_overflows_is_rough_and_not_missing():
    found = CLAIMS["smoother-loss"]

    def fates(network: Network, member: Member) -> Fate:
        return Fate(rough=NAN if network.norm == "none" and member.seed == 0 else 1.0)

    effects = primary(judged(found, fates)).values()
    assert {effect.verdict for effect in effects} == {I}
    assert all(effect.estimate != effect.estimate or effect.estimate > 1 for effect in effects)
