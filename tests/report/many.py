"""A study of all eighteen claims, and a full run to stand beside it, both made by hand."""

from dataclasses import replace

from xhat.lang import say
from xhat.study.result import ClaimResult, Study, Table

from .sample import claim, claims, depths, effect, landscape, rates, study, text

# Name, title, and each deciding effect: name, unit, interval, threshold, rule.
_MORE = (
    (
        "faster",
        "Training needs fewer steps",
        ("steps to the plain network's best loss, MLP", "ratio, none / batch", (2.1, 3.4, 5.5), 2.0, "above"),
        ("steps to the plain network's best loss, VGG", "ratio, none / batch", (2.6, 2.9, 3.2), 2.0, "above"),
    ),
    (
        "steadier",
        "Training is steadier from step to step",
        ("share of steps on which the loss rises", "points, none − batch", (1.1, 7.9, 14.7), 2.0, "above"),
    ),
    (
        "no-plateaus",
        "The loss surface has no plateaus on the way",
        ("share of the path that is flat", "points, none − batch", (3.0, 12.2, 21.4), 1.0, "above"),
    ),
    (
        "different-minima",
        "Optimisers end in different minima, and batch norm leads to wider ones",
        ("width of the minimum along random lines", "ratio, batch / none", (0.71, 0.94, 1.24), 1.1, "above"),
    ),
    (
        "no-bias",
        "A bias before batch norm is not needed",
        ("test accuracy without biases", "points, with − without", (-0.31, 0.04, 0.4), 1.0, "within"),
    ),
    (
        "scale-free",
        "The scale of the weights does not matter",
        (
            "test accuracy, first weights ten times larger",
            "points of accuracy",
            (-0.6, 0.1, 0.8),
            1.0,
            "within",
        ),
    ),
    (
        "regularises",
        "Batch norm regularises, dropout is less needed",
        (
            "test accuracy gained by dropout, without BN minus with BN",
            "points",
            (-1.8, -1.2, -0.6),
            0.0,
            "above",
        ),
    ),
    (
        "two-parameters",
        "γ and β alone can set a layer's distribution",
        (
            "steps to a wanted mean and variance",
            "ratio, all weights / γ and β",
            (8.9, 31.0, 108.0),
            1.0,
            "above",
        ),
    ),
    (
        "linear-region",
        "Without γ and β saturating units stay in their linear region",
        ("share of units in the linear region", "points, without − with", (4.1, 9.0, 13.9), 5.0, "above"),
    ),
    (
        "covariate-shift",
        "Batch norm does not reduce internal covariate shift",
        (
            "change of a layer's gradient by the step below",
            "ratio, batch / none",
            (0.9, 1.3, 1.9),
            1.0,
            "above",
        ),
    ),
    (
        "small-batches",
        "Small batches harm batch norm",
        ("test accuracy at batches of 2", "points, none − batch", (2.2, 9.4, 16.6), 1.0, "above"),
    ),
    (
        "order",
        "Before the activation is the better place",
        ("test accuracy, before minus after", "points", (-1.4, -0.2, 1.0), 0.5, "above"),
    ),
    (
        "hyper-parameters",
        "A wider range of hyper-parameters works",
        ("cells of the grid that train", "ratio, batch / none", (1.9, 2.4, 3.1), 1.5, "above"),
    ),
)


def more() -> tuple[ClaimResult, ...]:
    figures = (landscape(), rates(), depths())
    made = []
    for nth, (name, title, *parts) in enumerate(_MORE):
        effects = tuple(
            effect(what, unit, interval, at, rule=rule) for what, unit, interval, at, rule in parts
        )
        found = say("{count} of {all} seeds train in every arm", count=nth, all=10)
        by_seed = Table("By seed", ("seed", "BN", "none"), tuple((n, n / 3, n / 7) for n in range(12)))
        made.append(
            claim(
                text(name, title, says=f"What the notes say of {name}."),
                (found,),
                effects,
                replace(figures[nth % 3], id=name),
                tables=(by_seed,),
            )
        )
    return tuple(made)


def many(**changes) -> Study:
    whole = {"claims": (*claims(), *more()), "subject": "", "problems": (), "unfinished": ()}
    return study(**(whole | changes))


def full() -> Study:
    """A full run: tighter intervals, one claim the other way, one missing, one effect of another name."""
    found = []
    for result in many().claims:
        effects = tuple(
            replace(one, name=one.name.replace("30 layers", "60 layers")) for one in result.effects
        )
        found.append(replace(result, effects=effects))
    found[0] = replace(found[0], verdict="contradicted")
    environment = replace(many().environment, processor="Other CPU @ 3.00GHz", commit="fedcba987654")
    return many(
        preset="full",
        started="2026-10-01T08:00:00+00:00",
        seconds=7300.0,
        work=14600.0,
        claims=tuple(one for one in found if one.text.id != "order"),
        environment=environment,
    )
