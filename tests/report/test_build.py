"""The page as a file: what it says, that it is whole, and that it is safe."""

import base64
import hashlib
import html
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from xhat.report import _words, build, build_page, write_page
from xhat.report._bars import bar
from xhat.study.result import Table

from .sample import IMAGE, SCRIPT, claims, effect, laws, study


@pytest.fixture(scope="module")
def page() -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "shipped", lambda: None)
        return build_page(study())


class Outline(HTMLParser):
    """The page's elements, as a parser finds them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_it_is_one_file_below_eight_megabytes(page):
    assert len(page.encode()) < 8e6
    assert not [tag for tag, has in Outline(page).tags if tag in ("link", "img", "iframe") or has.get("src")]


def test_only_its_own_scripts_may_run(page):
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts]
    assert re.search(r"script-src ([^;]*);", policy)[1] == " ".join(f"'sha256-{one}'" for one in hashes)
    assert "default-src 'none'" in policy
    assert len(scripts) == 3


def test_hostile_names_make_no_element(page):
    tags = [tag for tag, _ in Outline(page).tags]
    assert tags.count("script") == 4
    assert "img" not in tags
    assert html.escape(SCRIPT) in page
    assert SCRIPT not in page
    assert IMAGE not in page


def test_figures_are_data_that_cannot_leave_their_script(page):
    held = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, flags=re.S)[1]
    assert not set("<>&") & set(held)
    places = re.findall(r'data-figure="([^"]+)"', page)
    assert sorted(json.loads(held)) == sorted(places)
    assert len(places) == len(set(places)) == 6


def test_headings_descend_one_level_at_a_time(page):
    levels = [int(tag[1]) for tag, _ in Outline(page).tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(deeper <= level + 1 for level, deeper in pairwise(levels))


def test_ids_are_unique_and_figures_have_words(page):
    tags = Outline(page).tags
    ids = [has["id"] for _, has in tags if "id" in has]
    assert len(ids) == len(set(ids))
    pictures = [has for _, has in tags if has.get("role") == "img"]
    assert len(pictures) == 6
    assert all(has["aria-label"] for has in pictures)


def escaped(words: str) -> str:
    """As Jinja writes it."""
    return html.escape(words).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")


def test_every_part_of_a_claim_is_there(page):
    for claim in claims():
        text = claim.text
        words = (text.title, text.says, text.measured, text.threshold, text.does_not_show, text.source)
        for part in (*words, text.expected, text.cost, *claim.found, *claim.runs):
            assert escaped(part) in page


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"preset": "smoke"}, "No verdicts are drawn at this size."),
        ({}, "1 problem<"),
        ({"problems": ("a", "b")}, "2 problems<"),
        ({}, "<code>regularises</code>"),
        ({"subject": ""}, "xhat’s own"),
        ({"seconds": math.nan}, "<dd>–</dd>"),
    ],
)
def test_what_the_reader_must_know_is_said(changes, shown):
    assert shown in build_page(study(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"claims": ()},
        {"laws": ()},
        {"claims": (), "laws": (), "problems": (), "unfinished": ()},
        {"claims": (replace(claims()[0], effects=(), figures=(), found=(), tables=(), runs=()),)},
        {"laws": (replace(laws()[0], checks=()),)},
    ],
)
def test_a_study_may_lack_anything(changes):
    assert build_page(study(**changes)).rstrip().endswith("</html>")


def test_the_same_study_gives_the_same_page(page):
    assert build_page(study()) == page


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "report.html"
    write_page(study(laws=()), path)
    before = path.read_bytes()
    monkeypatch.setattr("xhat.report.build.build_page", lambda study, **more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_page(study(), path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (1234567, "1,234,567"),
        (-3, "−3"),
        (0.0, "0"),
        (0.1, "0.100"),
        (2.3149, "2.31"),
        (99.96, "100"),
        (1234.5, "1,230"),
        (-0.04567, "−0.0457"),
        (3.1e-15, "3.10 × 10⁻¹⁵"),
        (9.999e5, "1.00 × 10⁶"),
        (math.nan, "–"),
        (-math.inf, "−∞"),
    ],
)
def test_numbers(value, written):
    assert _words.number(value) == written


@pytest.mark.parametrize(
    ("value", "written"), [(1e-12, "1 × 10⁻¹²"), (0.5, "0.5"), (10.0, "10"), (100.0, "100")]
)
def test_chosen_numbers_are_short(value, written):
    assert _words.short(value) == written


def test_a_column_is_written_alike():
    rows = (("a", 0.1, 0.5, 1, True), ("b", 0.5, 1 / 3, "none", False), ("c", math.nan, math.inf, 3, True))
    columns = _words.columns(Table("", ("arm", "lr", "loss", "of", "trains"), rows), yes="是")
    flush, cells = zip(*columns, strict=True)
    assert flush == (False, True, True, True, False)
    assert cells[1:4] == (["0.1", "0.5", "–"], ["0.500", "0.333", "∞"], ["1", "none", "3"])
    assert cells[4] == ["是", "no", "是"]


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (2.34, "2.3 s"),
        (59.7, "1 min"),
        (412, "6 min 52 s"),
        (7260, "2 h 1 min"),
        (90000, "1 d 1 h"),
        (-1, "–"),
    ],
)
def test_durations(seconds, written):
    assert _words.duration(seconds) == written


@pytest.mark.parametrize(
    ("iso", "written"),
    [
        ("2026-11-08T14:03:21+02:00", "2026-11-08 12:03 UTC"),
        ("2026-11-08T14:03:21", "2026-11-08 14:03 UTC"),
        (SCRIPT, SCRIPT),
    ],
)
def test_moments(iso, written):
    assert _words.moment(iso) == written


def test_an_interval_lies_in_its_region_exactly_if_it_is_supported():
    for claim in claims():
        for one in claim.effects:
            drawn = bar(one)
            if drawn is None:
                assert math.isnan(one.estimate)
                continue
            assert drawn.low <= drawn.estimate <= drawn.high
            inside = drawn.region[0] < drawn.low and drawn.high <= drawn.region[1]
            assert inside == (one.verdict == "supported")


def test_an_interval_without_an_end_is_open():
    drawn = bar(effect("name", "points", (-math.inf, 1.0, 2.0), 0.0))
    assert drawn is not None
    assert (drawn.open_low, drawn.low, drawn.open_high) == (True, 0.0, False)
