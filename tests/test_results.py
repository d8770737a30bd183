"""The evidence in the package is the evidence in the document: docs/results.md and its pictures."""

import json
import struct
from pathlib import Path

import pytest

from xhat.report import shipped
from xhat.study.claims import CLAIMS
from xhat.study.laws import LAWS

from .test_docs import load

results = load("docs/make_results.py")
study = shipped()


def test_the_document_is_that_of_the_shipped_run():
    assert results.PAGE.read_text(encoding="utf-8") == results.page(study), "run python docs/make_results.py"


def test_the_pictures_are_those_of_the_shipped_figures():
    known = json.loads((results.PICTURES / "figures.json").read_text(encoding="utf-8"))
    assert known == results.hashes(study), "run python docs/make_results.py"
    assert {path.name for path in results.PICTURES.glob("*.png")} == set(known)


def test_every_claim_and_law_is_shipped_and_nothing_is_open():
    assert [claim.text.id for claim in study.claims] == list(CLAIMS)
    assert [law.id for law in study.laws] == list(LAWS)
    assert (study.preset, study.subject, study.unfinished, study.problems) == ("full", "", (), ())


@pytest.mark.parametrize("name", CLAIMS)
def test_a_shipped_claim_was_judged_by_the_words_and_thresholds_of_the_source(name):
    (claim,) = (claim for claim in study.claims if claim.text.id == name)
    assert claim.text == CLAIMS[name].text
    assert any(effect.primary for effect in claim.effects)
    assert claim.runs


def test_the_document_names_environment_commit_and_time():
    head = results.PAGE.read_text(encoding="utf-8").partition("## All claims")[0]
    made = study.environment
    assert made.commit
    for words in (made.commit, made.torch, made.processor, results.moment(study.measured_from)):
        assert words in head


@pytest.mark.parametrize("path", sorted(Path(results.PICTURES).glob("*.png")), ids=lambda path: path.name)
def test_a_picture_is_whole(path):
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert width > 900
    assert height > 300
