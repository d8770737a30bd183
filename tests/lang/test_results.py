"""What claims and laws say is in the catalogue: their words before any run, and results of made-up runs."""

import math

import pytest

from xhat.cli.explain import _module_words
from xhat.lang import catalogue, needs_translation, template_of
from xhat.report import texts_of, translated
from xhat.study.claims import CLAIMS
from xhat.study.laws import LAWS
from xhat.study.result import ClaimResult, disagreement
from xhat.study.spec import Member, Network

from ..report.many import many
from ..study.made import CHANCE, Fate, Fates, judged

# Claims and laws whose every text has its Chinese; the others are only read.
TRANSLATED: tuple[str, ...] = (
    "any-moments",
    "bias-cancels",
    "curvature",
    "decoupling",
    "deep-saturating",
    "diverging-distributions",
    "easier-search",
    "faster",
    "gamma-beta-needed",
    "gradients",
    "inference",
    "init-insensitive",
    "larger-lr",
    "limits-batch",
    "limits-depth",
    "limits-noise",
    "limits-norms",
    "lipschitz",
    "no-bias",
    "regularises",
    "scale-insensitive",
    "scale-invariance",
    "smoother-loss",
    "stable-training",
    "standardise",
    "where-to-normalise",
)

NAN = math.nan


def fails(*norms: str, final: float = CHANCE) -> Fates:
    """Networks of these normalisations do not train."""

    def fates(network: Network, member: Member) -> Fate:
        return Fate(final=final) if network.norm in norms else Fate()

    return fates


def half(network: Network, member: Member) -> Fate:
    """Every other seed trains, and seeds differ."""
    return Fate(final=0.2 + 0.02 * member.seed if member.seed % 2 else NAN, accuracy=0.5 + 0.03 * member.seed)


ALL: dict[str, Fates] = {
    "all train": fails(),
    "plain fails": fails("none"),
    "BN fails": fails("batch"),
    "none trains": lambda network, member: Fate(final=NAN),
    "all collapse": lambda network, member: Fate(final=CHANCE),
    "half train": half,
    "rough": lambda network, member: Fate(rough=9.0 if network.norm == "none" else 1.0, gradient=30.0),
}


def untranslated(result: object) -> set[str]:
    """Return the templates that are shown and have no Chinese, nested phrases included."""
    missing: set[str] = set()

    def note(text: str) -> None:
        template = template_of(text)
        if needs_translation(template) and template not in catalogue("zh"):
            missing.add(template)
        for value in getattr(text, "values", {}).values():
            if isinstance(value, str):
                note(value)

    for text in texts_of(result):
        note(text)
    return missing


def results(name: str) -> list[ClaimResult]:
    return [judged(CLAIMS[name], fates) for fates in ALL.values()]


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claims_results_are_translated(name):
    if name not in TRANSLATED:
        assert len(list(texts_of(judged(CLAIMS[name], fails())))) > 20
        return
    missing = set().union(*(untranslated(result) for result in results(name)))
    assert missing == set()
    parts = (disagreement(result.effects) for result in results(name))
    assert [text for text in parts if text and untranslated(text)] == []


@pytest.mark.parametrize("name", LAWS)
def test_a_laws_results_are_translated(name):
    result = LAWS[name](0)
    words = (*texts_of(result), *_module_words(LAWS[name]))
    assert len(words) > 5
    if name in TRANSLATED:
        assert untranslated(words) == set()


def test_every_text_that_is_shown_is_read():
    """Every field that holds words is walked: put in a mark everywhere, and no word is left without it."""
    study = many()
    marked = translated(study, lambda text: f"«{text}»")
    assert sorted(texts_of(marked)) == sorted(f"«{text}»" for text in texts_of(study))
    claim, was = marked.claims[0], study.claims[0]
    assert claim.text.title == f"«{was.text.title}»"
    assert claim.text.id == was.text.id
    assert claim.verdict == was.verdict
    assert claim.figures[0].panels[0].curves[0].arm == was.figures[0].panels[0].curves[0].arm
    assert claim.figures[0].panels[0].curves[0].y == was.figures[0].panels[0].curves[0].y
