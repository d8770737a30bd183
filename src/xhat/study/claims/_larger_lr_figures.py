"""Figures, table and words of larger-lr: which rates train, and the largest one by arm and seed."""

import math
from collections.abc import Mapping

import numpy as np

from xhat.lang import listed, say
from xhat.study.claim import Subject
from xhat.study.claims._rates import RATES, Largest, largest_rates, last_rate
from xhat.study.curves import ARM_NAMES, mean_curve
from xhat.study.outcome import Outcome
from xhat.study.result import Axis, Curve, Figure, Panel, Table
from xhat.study.spec import Member


def grid_figure(subject: Subject, trained: Mapping[tuple[str, Member], Outcome]) -> Figure:
    """Return who trains at which rate of the grid, and to which loss."""
    share, final = [], []
    for norm in dict.fromkeys(norm for norm, _ in trained):
        rows = [
            [trained[norm, Member(seed, rate, subject.init)] for rate in RATES]
            for seed in range(subject.seeds)
        ]
        trains = np.mean([[float(outcome.trains) for outcome in row] for row in rows], axis=0)
        share.append(
            Curve(ARM_NAMES[norm], norm, RATES, tuple(map(float, 100 * trains)), mode="lines+markers")
        )
        losses = [np.array([outcome.final_loss for outcome in row]) for row in rows]
        final.append(mean_curve(ARM_NAMES[norm], norm, RATES, losses, log=True))
    rate_axis = Axis("learning rate", log=True)
    return Figure(
        id=f"larger-lr-{subject.network.name}",
        title=say("Learning rates that train: {network}", network=subject.name),
        caption=say(
            "Left: share of {seeds} seeds that train. Right: geometric mean over seeds of the final training "
            "loss with its 95% interval, over the seeds whose loss is finite; a curve ends where none is.",
            seeds=subject.seeds,
        ),
        alt=say(
            "Share of seeds that train and final loss against learning rate. {found}",
            found=words(subject, largest_rates(subject, trained)),
        ),
        panels=(
            Panel("Who trains", rate_axis, Axis("seeds that train (%)"), tuple(share)),
            Panel("Final training loss", rate_axis, Axis("cross-entropy", log=True), tuple(final)),
        ),
    )


def found_figure(subject: Subject, largest: Largest) -> Figure:
    """Return the largest rates that a search from above found."""
    seeds = tuple(float(seed) for seed in range(subject.seeds))
    curves = tuple(
        Curve(
            ARM_NAMES[norm],
            norm,
            seeds,
            tuple(math.nan if rate is None else rate for rate in rates),
            mode="markers",
        )
        for norm, rates in largest.items()
    )
    return Figure(
        id=f"larger-lr-{subject.network.name.replace(':', '-')}",
        title=say("Largest learning rate that trains: {network}", network=subject.name),
        caption=say(
            "One point a seed and arm, on a grid in factors of two up to {end:g}.", end=last_rate(subject)
        ),
        alt=words(subject, largest),
        panels=(Panel("By seed", Axis("seed"), Axis("largest learning rate that trains", log=True), curves),),
    )


def table(subject: Subject, largest: Largest) -> Table:
    """Return the largest rates by seed and arm."""
    seeds = range(len(largest["none"]))
    return Table(
        say("Largest learning rate that trains, {network}", network=subject.name),
        ("seed", *(ARM_NAMES[norm] for norm in largest)),
        tuple((seed, *(_cell(rates[seed]) for rates in largest.values())) for seed in seeds),
    )


def _cell(rate: float | None) -> str | float:
    return "none trains" if rate is None else rate


def words(subject: Subject, largest: Largest) -> str:
    """Say the median over seeds of each arm's largest rate."""
    parts: list[str] = []
    for norm, rates in largest.items():
        known = [rate for rate in rates if rate is not None]
        if not known:
            parts.append(say("with {arm} no rate of the grid trains", arm=ARM_NAMES[norm]))
            continue
        words_: list[str] = [say("{arm} {rate:g}", arm=ARM_NAMES[norm], rate=float(np.median(known)))]
        if max(known) >= last_rate(subject):
            words_.append(say("(the grid's end)"))
        if len(known) < len(rates):
            words_.append(
                say("({count} of {seeds} seeds train at some rate)", count=len(known), seeds=len(rates))
            )
        parts.append(listed(words_, " "))
    return say(
        "{network}, median over seeds of the largest rate that trains: {rates}.",
        network=subject.name,
        rates=listed(parts, ", "),
    )
