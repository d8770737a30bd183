"""The shipped full run: written alike, read back, and shown beside other runs."""

import lzma
from dataclasses import replace

import pytest

from xhat.errors import UsageError
from xhat.report import build, build_page, write_shipped
from xhat.report._views import telling, views
from xhat.report.evidence import read_shipped, shipped

from .many import full, many
from .sample import claim, claims, effect, study, text


def test_what_was_written_is_read_back_whole(tmp_path):
    path = write_shipped(full(), tmp_path / "evidence" / "full.json.xz")
    back = read_shipped(path.read_bytes())
    assert repr(back) == repr(full())
    assert any(claim.figures for claim in back.claims)


def test_the_same_study_gives_the_same_bytes(tmp_path):
    first, second = (write_shipped(full(), tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second
    assert lzma.decompress(first).startswith(b'{"preset":"full"')


@pytest.mark.parametrize(
    "changes",
    [{"preset": "quick"}, {"subject": "net:make on net:data"}, {"unfinished": ("faster",)}, {"claims": ()}],
)
def test_only_a_whole_full_run_of_our_own_is_shipped(tmp_path, changes):
    with pytest.raises(UsageError, match="is no evidence to ship"):
        write_shipped(replace(full(), **changes), tmp_path / "full.json.xz")


def test_claims_are_matched_by_name_and_effects_by_unit_too():
    found = {view.claim.text.id: view for view in views(many(), full(), str)}
    assert found["order"].full is None
    assert found["smoother-loss"].full == "contradicted"
    assert [(row.here is None, row.full is None) for row in found["deep-saturating"].deciding] == [
        (False, True),  # 30 layers
        (True, False),  # 60 layers
    ]


ABOUT = "Started 2026-10-01 08:00 UTC, commit fedcba987654, Other CPU @ 3.00GHz."


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, True),
        ({"preset": "smoke"}, True),
        ({"preset": "full"}, False),
        ({"preset": "full", "subject": "net:make on net:data"}, True),
    ],
)
def test_the_shipped_run_stands_beside_any_other(monkeypatch, changes, shown):
    monkeypatch.setattr(build, "shipped", full)
    page = build_page(many(**changes))
    assert (ABOUT in page) == shown
    assert ("It says nothing of your network." in page) == ("subject" in changes)
    assert ("xhat’s own full run" in page) == ("subject" in changes)


def test_without_a_shipped_run_nothing_is_said_of_it():
    assert "Full run" not in build_page(study())


@pytest.mark.parametrize(
    ("intervals", "which"),
    [
        ([(2.0, 3.0, 4.0), (1.1, 1.6, 2.1)], 1),  # supported: the weakest
        ([(0.1, 0.5, 0.9), (0.1, 0.2, 0.3)], 1),  # contradicted: the strongest against
        ([(2.0, 3.0, 4.0), (0.5, 1.5, 2.5)], 1),  # open because of the second
        ([(2.0, 3.0, 4.0), (0.1, 0.2, 0.3)], 1),  # parts that disagree: the one against
        ([(float("nan"),) * 3, (0.5, 1.5, 2.5)], 0),  # nothing could be measured
    ],
)
def test_the_telling_effect_is_the_one_on_which_the_verdict_hangs(intervals, which):
    effects = tuple(effect(f"part {nth}", "ratio, a / b", one, 1.0) for nth, one in enumerate(intervals))
    told = telling(claim(text("name", "title"), (), effects))
    assert told is effects[which]


def test_a_claim_without_deciding_effects_tells_nothing():
    aside = effect("aside", "points", (1.0, 2.0, 3.0), 0.0, primary=False)
    assert telling(claim(text("name", "title"), (), (aside,))) is None


def test_effects_that_differ_in_their_unit_alone_keep_their_own_number():
    units = ("ratio, none / BN", "ratio, none / LN")
    effects = tuple(effect("steps", unit, (2.0, 3.0 + nth, 9.0), 1.2) for nth, unit in enumerate(units))
    same = replace(claims()[0], effects=effects)
    (view,) = views(study(claims=(same,)), study(preset="full", claims=(same,)), str)
    assert all(row.full is row.here for row in (*view.deciding, *view.others))


def test_every_shipped_effect_is_told_from_the_others_of_its_claim():
    shipped_ = shipped()
    assert shipped_ is not None
    for found in views(shipped_, shipped_, str):
        assert all(row.full is row.here for row in (*found.deciding, *found.others))
