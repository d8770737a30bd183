"""easier-search: with BN the search for hyper-parameters is easy, and their workable range is large.

Source: the notes' first paragraph; no paper is cited for it. Expected there: no number. The measure is ours.
Cost on 2 cores: quick about 1 minute, full about 5.
Command: xhat study --claims easier-search
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement
from xhat.study.claims._search_box import Box, Trained, own_box, scales, searched
from xhat.study.curves import ARM_NAMES, mean_curve
from xhat.study.result import Axis, ClaimResult, ClaimText, Effect, Figure, Heat, Panel, Table, overall
from xhat.study.spec import Member
from xhat.study.subjects import subjects_table
from xhat.study.verdict import difference

# Committed before the first run.
SHARE = 10.0  # points of share by which BN's workable part of the grid must be larger
WITHIN = 5.0  # points of accuracy below the best that count as workable
SURE = 0.95  # probability that random tries find a workable cell

TEXT = ClaimText(
    id="easier-search",
    title="Batch norm makes hyper-parameter search easier",
    says=(
        "BN makes the search for parameters easy and the choice of hyper-parameters steadier; the range of "
        "hyper-parameters that work is much larger, and they work well."
    ),
    measured=(
        "An MLP of five ReLU layers on a grid of learning rates from 0.01 to 10 and scales of all initial "
        "weights from 0.01 to 100, both in factors of about three (a user's network: 3 rates and 3 scales in "
        f"factors of ten). A cell is workable if its test accuracy lies within {WITHIN:g} points of the best "
        "that this seed reaches in any cell with or without BN. The effect is the workable share of the grid "
        "with BN minus that without, paired by seed. Layer norm is shown beside it."
    ),
    threshold=(
        f"Supported if BN's workable share of the grid is larger by more than {SHARE:g} points of share, with "
        "the whole 95% interval."
    ),
    does_not_show=(
        "A share depends on the box that is searched: this one is centred on the usual initialisation and on "
        "rates around 0.3. Of xhat's own network the scales span four decades, most of "
        "the box, so that its share largely says again what init-insensitive says; the share at scale 1 alone is "
        "among the findings. Two hyper-parameters of many; plain SGD without schedule, one budget of steps."
    ),
    source="The notes' own words, ours to measure.",
    expected="No number is known.",
    cost="quick: about 1 minute; full: about 5 minutes",
)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Maps:
    """Test accuracy in per cent of each arm on the box, shape (seeds, scales, rates)."""

    box: Box
    accuracy: Mapping[str, Floats]

    @property
    def best(self) -> Floats:
        """Shape (seeds, 1, 1): the best that a seed reaches with or without BN."""
        both = np.maximum(self.accuracy["batch"], self.accuracy["none"])
        return np.asarray(both.max(axis=(1, 2), keepdims=True))

    def share(self, norm: str, *, within: float = WITHIN, own: bool = False) -> Floats:
        """Return the workable share of the grid in per cent, a seed each; ``own``: against the arm's best."""
        accuracy = self.accuracy[norm]
        best = accuracy.max(axis=(1, 2), keepdims=True) if own else self.best
        return np.asarray(100 * (accuracy >= best - within).mean(axis=(1, 2)))

    def share_at_one(self, norm: str) -> Floats:
        """Return the workable share of the rates at scale 1 in per cent, a seed each."""
        row = self.accuracy[norm][:, self.box.scales.index(1.0)]
        return np.asarray(100 * (row >= self.best[:, 0] - WITHIN).mean(axis=1))


def measure(context: Context) -> Measurement:
    """Train every cell of the grid in every arm, and compare how much of it works."""
    if context.user is None:
        box = own_box(context)
    else:
        (subject,) = context.subjects()
        box = Box(subject, (0.01, 0.1, 1.0), scales(3, low=0.1), ("none", "batch"))
    trained, keys = yield from searched(box)
    maps = _Maps(box, {norm: _accuracy(trained, box, norm) for norm in box.norms})
    effects = _effects(maps)
    return ClaimResult(
        TEXT,
        overall(effects),
        (*(_words(maps, norm) for norm in box.norms), _words_at_one(maps)),
        tuple(effects),
        (_heat_maps(maps), _allowance(maps)),
        (_table(maps), subjects_table(box.subject)),
        runs=keys,
    )


def _accuracy(trained: Trained, box: Box, norm: str) -> Floats:
    init = box.subject.init
    return np.array(
        [
            [
                [
                    100 * trained[(norm, init), Member(seed, rate, init, scale)].test_accuracy
                    for rate in box.rates
                ]
                for scale in box.scales
            ]
            for seed in range(box.subject.seeds)
        ]
    )


def _effects(maps: _Maps) -> list[Effect]:
    name = maps.box.subject.name
    unit = "points of share, batch − none"
    effects = [
        difference(
            say("workable share of the grid, {subject}", subject=name),
            unit,
            list(maps.share("batch") - maps.share("none")),
            threshold=SHARE,
        ),
        difference(
            say("workable share, each arm against its own best, {subject}", subject=name),
            unit,
            list(maps.share("batch", own=True) - maps.share("none", own=True)),
            threshold=SHARE,
            primary=False,
        ),
        difference(
            say("workable share of the rates at scale 1, {subject}", subject=name),
            unit,
            list(maps.share_at_one("batch") - maps.share_at_one("none")),
            threshold=SHARE,
            primary=False,
        ),
    ]
    if "layer" in maps.accuracy:
        effects.append(
            difference(
                say("workable share of the grid, {subject}", subject=name),
                "points of share, layer − none",
                list(maps.share("layer") - maps.share("none")),
                threshold=SHARE,
                primary=False,
            )
        )
    return effects


def _heat_maps(maps: _Maps) -> Figure:
    box = maps.box
    means = {norm: accuracy.mean(axis=0) for norm, accuracy in maps.accuracy.items()}
    low = 10.0 * math.floor(min(float(mean.min()) for mean in means.values()) / 10)
    high = 10.0 * math.ceil(max(float(mean.max()) for mean in means.values()) / 10)
    rate, scale = Axis("learning rate", log=True), Axis("initial weights multiplied by", log=True)
    order = sorted(box.norms, key=("batch", "none", "layer").index)
    panels = tuple(
        Panel(
            ARM_NAMES[norm],
            rate,
            scale,
            (),
            Heat(
                "test accuracy (%)",
                box.rates,
                box.scales,
                tuple(tuple(map(float, row)) for row in means[norm]),
                low,
                max(high, low + 10),
            ),
        )
        for norm in order
    )
    return Figure(
        id="easier-search",
        title=say("What works of the grid: {subject}", subject=box.subject.name),
        caption=say(
            "Mean test accuracy over {seeds} seeds at every learning rate and every scale of the initial "
            "weights, per cent, in the cells and by colour. Scale 1 is the usual initialisation.",
            seeds=box.subject.seeds,
        ),
        alt=say(
            "A map of test accuracy for each arm. {words}",
            words=say("{batch} {none}", batch=_words(maps, "batch"), none=_words(maps, "none")),
        ),
        panels=panels,
    )


def _allowance(maps: _Maps) -> Figure:
    allowed = np.arange(0.0, 31.0)
    curves = tuple(
        mean_curve(
            ARM_NAMES[norm],
            norm,
            allowed,
            list(np.stack([maps.share(norm, within=points) for points in allowed], axis=1)),
        )
        for norm in maps.box.norms
    )
    return Figure(
        id="easier-search-allowance",
        title=say(
            "The share that works, by how much accuracy may be lost: {subject}", subject=maps.box.subject.name
        ),
        caption=say(
            "Mean over {seeds} seeds of the share of the grid whose test accuracy lies so many points or less "
            "below the best; bands: 95% intervals. The verdict is taken at {within:g} points.",
            seeds=maps.box.subject.seeds,
            within=WITHIN,
        ),
        alt=say(
            "The workable share of the grid rises with the allowance. At {within:g} points: batch norm "
            "{batch:.0f}%, no normalisation {none:.0f}%.",
            within=WITHIN,
            batch=float(maps.share("batch").mean()),
            none=float(maps.share("none").mean()),
        ),
        panels=(
            Panel(
                "Workable share",
                Axis("points of accuracy below the best that are allowed"),
                Axis("share of the grid (%)"),
                curves,
            ),
        ),
    )


def _table(maps: _Maps) -> Table:
    box = maps.box
    rows = []
    for norm in box.norms:
        mean = maps.accuracy[norm].mean(axis=0)
        scale, rate = np.unravel_index(int(mean.argmax()), mean.shape)
        rows.append(
            (
                ARM_NAMES[norm],
                float(maps.share(norm).mean()),
                float(maps.share(norm, own=True).mean()),
                float(mean.max()),
                box.rates[rate],
                box.scales[scale],
            )
        )
    columns = (
        "arm",
        "workable share (%)",
        "against its own best (%)",
        "best mean accuracy (%)",
        "at learning rate",
        "at scale",
    )
    return Table("What works of the grid", columns, tuple(rows))


def _words(maps: _Maps, norm: str) -> str:
    share = float(maps.share(norm).mean())
    known = {"subject": maps.box.subject.name, "arm": ARM_NAMES[norm], "share": share, "within": WITHIN}
    if share <= 0:
        return say(
            "{subject}, {arm}: no cell of the grid lies within {within:g} points of the best.", **known
        )
    tries = 1 if share >= 100 * SURE else math.ceil(math.log(1 - SURE) / math.log(1 - share / 100))
    return say(
        "{subject}, {arm}: {share:.0f}% of the grid lies within {within:g} points of the best; random tries "
        "needed to find such a cell with a probability of {sure:.0%}: {tries}.",
        sure=SURE,
        tries=tries,
        **known,
    )


def _words_at_one(maps: _Maps) -> str:
    shares = [
        say("{arm} {share:.0f}%", arm=ARM_NAMES[norm], share=float(maps.share_at_one(norm).mean()))
        for norm in maps.box.norms
    ]
    return say(
        "{subject}, at the usual initialisation (scale 1) alone, share of the {count} learning rates that lie "
        "within {within:g} points of the best: {shares}.",
        subject=maps.box.subject.name,
        count=len(maps.box.rates),
        within=WITHIN,
        shares=listed(shares),
    )


CLAIM = Claim(TEXT, measure, takes_networks=True)
