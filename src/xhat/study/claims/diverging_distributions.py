"""diverging-distributions: what do the distributions do in networks that do not converge, or oscillate?

The notes' open question. Santurkar et al. 2018 (arXiv 1805.11604, fig. 1) saw no difference between the
distributions of two networks that both converge. No number is known for the rest: ours.
Cost on 2 cores: quick about half a minute, full about 3.
Command: xhat study --claims diverging-distributions
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from xhat.lang import say
from xhat.study.claim import Claim, Context, Measurement
from xhat.study.claims._diverging_conditions import ABOVE, CONVERGES, EDGE, ours, users, watched
from xhat.study.claims._diverging_figures import figures
from xhat.study.claims._diverging_words import answer, table
from xhat.study.claims._drift import STILL, Movement
from xhat.study.curves import spaced
from xhat.study.outcome import Training, outcomes, specs
from xhat.study.result import ClaimResult, ClaimText, Effect, overall
from xhat.study.spec import Record
from xhat.study.subjects import mlp, subjects_table
from xhat.study.verdict import difference, ratio

# Committed before the first run.
STABLER = 1.0  # times: a collapsed network's drift below the least drift of any other
PERIOD = 0.5  # autocorrelation at lag 2 minus that at lag 1
UNRELATED = 0.5  # rank correlation of drift and final loss: within ± this it does not predict monotonically

TEXT = ClaimText(
    id="diverging-distributions",
    title="Layer distributions in networks that do not converge or oscillate",
    says=(
        "With and without BN the distributions of a VGG's layers over training look alike, but both networks "
        "converge. What do they do in a network that does not converge, or whose training oscillates? The "
        "author did not know."
    ),
    measured=(
        "Networks that converge and networks that do not, each on a fixed probe batch, in an early, a middle "
        "and a late layer: before normalisation, after it, and at the next layer's input, which decides "
        "(after BN the moments are β and γ² by construction). Drift: Wasserstein-1 distance of each unit's "
        "distribution between neighbouring records, over the pooled standard deviation, in the second half "
        "of training. Oscillation: autocorrelation of the units' means over the last steps. Collapsed: "
        "finite, with a final loss within 5% of chance. One step of the learning rate is a factor of two; "
        "noise is that of [S], Alg. 1, behind each layer; each record draws it anew, so that drift there is not "
        "movement of the weights alone. Beside the verdict: whether final loss goes with the distance of a "
        f"network's drift, up or down, from that of “{CONVERGES}” (of the logarithms, over all other conditions)."
    ),
    threshold=(
        "Three hypotheses. Collapsed networks have the most stable distributions: the least drift of any "
        "other network of the same seed exceeds theirs, the mean over the collapsed (ratio above 1). Networks "
        "just above the "
        "largest learning rate that trains oscillate with period 2: autocorrelation at lag 2 minus lag 1 "
        f"above {PERIOD:g}. Stability does not predict training monotonically: the rank correlation of drift "
        f"and final loss lies within ±{UNRELATED:g}. Supported if all three are."
    ),
    does_not_show=(
        "That stable distributions do harm or good: networks were compared, nothing was held still. Networks "
        "whose loss became infinite have no distribution any more and are only counted. A rank correlation near "
        "0 excludes a monotonic relation alone: if networks that drift little and networks that drift much both "
        "had high losses, and those between low ones, drift would predict training all the same. The conditions "
        "were chosen by hand: the rank correlation is one over these conditions, its interval one over seeds."
    ),
    source="The notes' open question; after [S] Santurkar et al. 2018, arXiv 1805.11604, fig. 1 and Alg. 1.",
    expected="Unknown; [S] saw no marked difference between two networks that converge.",
    cost="quick: about half a minute; full: about 3 minutes",
    changes=(
        "The Wasserstein distance is now the area between quantile functions, not a mean over levels; a "
        "network that stands still counts as not oscillating. A sigmoid network with BN, which converges, was "
        "added beside the plain one; one step above the largest rate now lies above it also at the grid's end; "
        "a user's network has the conditions around its largest rate too. Before and after "
        "normalisation are now watched in the block whose output is the next layer's input, one block earlier "
        "than before; the inputs, which decide, are the same. The third hypothesis now says "
        "monotonically, which is all that a rank correlation can tell; the distance from a converging network's "
        "drift stands beside it and decides nothing. All runs were made anew on other seeds."
    ),
)


def measure(context: Context) -> Measurement:
    """Record the distributions under each condition and test the three hypotheses."""
    (subject,) = context.subjects(mlp(context.preset))
    conditions, keys = yield from (users if subject.is_users else ours)(subject)
    window = min(8 if context.preset == "smoke" else 48, subject.steps // 2)
    places = None if subject.is_users else watched(subject)
    layers = (
        tuple(dict.fromkeys(layer for place in places.values() for layer, _ in place)) if places else None
    )
    at = sorted({*spaced(subject.steps - window, 30), *range(subject.steps - window, subject.steps)})
    training = Training(
        subject.data, subject.steps, subject.batch_size, record=Record(tuple(at), batch=128, layers=layers)
    )
    wanted = [specs(c.network, c.members, training) for c in conditions]
    flat = [spec for group in wanted for spec in group]
    runs = yield flat
    done = dict(zip(flat, runs, strict=True))
    moved: dict[str, list[Movement]] = {}
    for condition, group in zip(conditions, wanted, strict=True):
        trained = outcomes(group, [done[spec] for spec in group])
        moved[condition.name] = [
            Movement(trained[condition.network, member], window, places) for member in condition.members
        ]
    effects = _effects(moved)
    return ClaimResult(
        TEXT,
        overall(effects),
        answer(moved, effects),
        tuple(effects),
        figures(moved),
        (table(moved), subjects_table(subject)),
        runs=tuple(dict.fromkeys([*keys, *(run.key for run in runs)])),
    )


def _effects(moved: Mapping[str, list[Movement]]) -> list[Effect]:
    seeds = range(len(next(iter(moved.values()))))
    stabler: list[float] = []
    related: list[float] = []
    distant: list[float] = []
    for seed in seeds:
        runs = [movements[seed] for movements in moved.values()]
        finite = [m for m in runs if np.isfinite(m.late_drift) and np.isfinite(m.outcome.final_loss)]
        collapsed = [max(m.late_drift, STILL) for m in finite if m.collapsed]
        others = [max(m.late_drift, STILL) for m in finite if not m.collapsed]
        if collapsed and others:
            stabler.append(float(np.log(min(others) / np.mean(collapsed))))
        related += _rank_correlation([(m.late_drift, m.outcome.final_loss) for m in finite])
        distant += _rank_correlation(_distances(moved, seed))
    effects = [
        ratio(
            "collapsed networks are the most stable: drift",
            "ratio, least of the others / collapsed",
            stabler,
            threshold=STABLER,
        )
    ]
    for name in (ABOVE, EDGE, CONVERGES):
        gaps = [m.autocorrelation(2) - m.autocorrelation(1) for m in moved[name]]
        infinite = sum(not np.isfinite(gap) for gap in gaps)
        effects.append(
            difference(
                say("period 2 in the means: {condition}", condition=name),
                "autocorrelation, lag 2 − lag 1",
                [gap for gap in gaps if np.isfinite(gap)],
                threshold=PERIOD,
                primary=name == ABOVE,
                note=(
                    say("{count} networks that became infinite are left out", count=infinite)
                    if infinite
                    else ""
                ),
            )
        )
    effects += [
        difference(
            "stability does not predict training monotonically",
            "rank correlation of drift and final loss",
            related,
            threshold=UNRELATED,
            rule="within",
        ),
        difference(
            "distance from a converging network's drift does not predict training",
            "rank correlation of that distance and final loss",
            distant,
            threshold=UNRELATED,
            rule="within",
            primary=False,
        ),
    ]
    return effects


def _rank_correlation(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """Return it as a list of one; empty with fewer than 4 pairs, or where one side is all the same."""
    if len(pairs) < 4 or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return []
    return [float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)]


def _distances(moved: Mapping[str, list[Movement]], seed: int) -> list[tuple[float, float]]:
    """Return |ln drift − ln drift of the converging network| and final loss of all others that are finite.

    Empty if that network does not train: it is no measure then. Its own distance is 0 whatever it learns,
    so it is left out.
    """
    middle = moved[CONVERGES][seed]
    if not (middle.outcome.trains and np.isfinite(middle.late_drift)):
        return []
    others = [movements[seed] for name, movements in moved.items() if name != CONVERGES]
    return [
        (
            abs(float(np.log(max(m.late_drift, STILL) / max(middle.late_drift, STILL)))),
            m.outcome.final_loss,
        )
        for m in others
        if np.isfinite(m.late_drift) and np.isfinite(m.outcome.final_loss)
    ]


CLAIM = Claim(TEXT, measure, takes_networks=True)
