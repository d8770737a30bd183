import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from xhat.study import claims as package
from xhat.study.claim import Context, Subject
from xhat.study.claims import CLAIMS
from xhat.study.result import Figure, Panel
from xhat.study.spec import Data, Network
from xhat.study.subjects import users

from .made import OUTCOMES, USERS, C, I, S, judged, primary

# --- whatever a claim finds


def panels(figure: Figure) -> Iterator[Panel]:
    yield from figure.panels
    for frame in figure.frames:
        yield from frame.panels


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
        if spec.data.raw:
            continue  # to standardise the inputs is a normalisation too: an arm with rates of its own
        # γ, β and its place belong to the normalisation
        options = tuple(option for option in spec.network.options if option[0] not in ("affine", "place"))
        network = replace(spec.network, norm="none", options=options)
        plain = replace(spec, network=network, members=())
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
        assert words or name == "changes", name
        assert "  " not in words, name
    assert claim.text.threshold.lower().startswith(("supported", "three hypotheses"))
    assert re.search(r"\d", claim.text.threshold)


def test_subjects():
    subject = Subject("a", Network("mlp"), Data(), 3, 10, 8)
    assert not subject.is_users
    assert users("quick", "net:make", "net:data").is_users
    assert Context("quick", seeds=7).subject(subject).seeds == 7
    assert Context("quick", data="digits").subject(subject).data.name == "digits"
    # in ``paper`` the folder that was named holds CIFAR-10, and what is trained on other data stays so
    on_cifar = replace(subject, data=Data("cifar10"))
    paper = Context("paper", data="cifar10:here")
    assert [paper.subject(s).data.name for s in (subject, on_cifar)] == ["fashion-mnist", "cifar10:here"]
    assert Context("quick", steps=77).subject(subject).steps == 77
    assert Context("quick", user=subject).subjects(replace(subject, name="b")) == (subject,)
