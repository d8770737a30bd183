"""The page of all claims as a reader sees it: the first screen, filters, the open question, two languages."""

import pytest

from xhat.report import translated, write_page

from .many import many
from .test_page_in_chromium import CLIPPED

pytestmark = pytest.mark.chromium

CLAIMS = 18
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
QUESTION = "claim-diverging-distributions"

SHOWN = """selector => [...document.querySelectorAll(selector)].filter(e => e.checkVisibility()).length"""
ROWS, SECTIONS, ENTRIES = ".glance tbody tr", "article[data-claim]", ".contents li[data-claim]"


@pytest.fixture
def open_many(open_page, many_files):
    return lambda lang="en", **context: open_page(many_files[lang], drawn=False, **context)


def shown(page) -> tuple[int, int, int]:
    """How many rows, sections and entries of the contents are to be seen."""
    return tuple(page.evaluate(SHOWN, selector) for selector in (ROWS, SECTIONS, ENTRIES))


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_all_verdicts_stand_on_the_first_screen(open_many, lang):
    page = open_many(lang, viewport=DESK)
    assert page.evaluate(SHOWN, ROWS) == CLAIMS
    assert page.evaluate("document.querySelector('.glance').getBoundingClientRect().bottom") < 800
    assert page.evaluate("document.querySelector('.to-question a').getBoundingClientRect().bottom") < 800
    assert page.locator(ROWS).first.inner_text().split()[0] == {"en": "supported", "zh": "支持"}[lang]


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("width", [1280, 1000, 880, 700, 390, 360])
def test_nothing_is_wider_than_the_screen(open_many, lang, width):
    page = open_many(lang, viewport={"width": width, "height": 844})
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    outside = """() => [...document.querySelectorAll('main *')]
      .filter(e => !e.closest('.scroll, .what') && !e.closest('svg') && e.checkVisibility()
        && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    assert page.evaluate(outside) == []


def test_figures_are_drawn_as_the_reader_comes_near(open_many):
    page = open_many(viewport=DESK)
    drawn = "() => document.querySelectorAll('.plot .main-svg').length"
    page.wait_for_timeout(300)
    before = page.evaluate(drawn)
    page.locator("#origin").scroll_into_view_if_needed()
    page.wait_for_function(f"() => document.querySelectorAll('.plot .main-svg').length > {before}")
    assert page.locator("html").get_attribute("data-drawn") == "near"


def test_a_link_lands_on_its_section_though_figures_above_are_not_drawn(open_many):
    page = open_many(viewport=DESK, reduced_motion="reduce")
    page.locator(ROWS).get_by_role("link", name="Small batches harm").click()
    page.wait_for_timeout(600)
    top = "document.getElementById('claim-small-batches').getBoundingClientRect().top"
    assert 0 <= page.evaluate(top) < 60


def test_filters_by_verdict_hold_for_rows_sections_and_contents(open_many):
    page = open_many(viewport=DESK)
    assert shown(page) == (CLAIMS, CLAIMS, CLAIMS)
    button = page.get_by_role("button", name="contradicted")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    assert page.get_by_role("button", name="all").get_attribute("aria-pressed") == "false"
    assert shown(page) == (2, 2, 2)
    assert page.locator(".filters output").inner_text() == "2 of 18 claims are shown"
    assert not page.locator("#open-question").is_visible()
    page.get_by_role("button", name="all").click()
    assert shown(page) == (CLAIMS, CLAIMS, CLAIMS)


def test_filter_by_name(open_many):
    page = open_many(viewport=DESK)
    field = page.get_by_role("searchbox")
    field.fill("BATCH norm")
    assert 1 < shown(page)[0] < CLAIMS
    field.fill("larger-lr")  # a claim's own name
    assert shown(page) == (1, 1, 1)
    field.fill("larger-rl")
    assert shown(page) == (0, 0, 0)
    assert page.get_by_text("No claim fits.").is_visible()
    field.press("Escape")
    assert shown(page) == (CLAIMS, CLAIMS, CLAIMS)


def test_a_link_to_what_is_filtered_out_shows_it(open_many):
    page = open_many(viewport=DESK)
    page.get_by_role("button", name="supported").click()
    assert not page.locator(f"#{QUESTION}").is_visible()
    page.locator(".to-question a").click()
    page.wait_for_function(f"document.getElementById('{QUESTION}').checkVisibility()")
    assert shown(page) == (CLAIMS, CLAIMS, CLAIMS)


def test_without_scripts_all_is_shown_and_no_filter(open_page, many_files, browser):
    context = browser.new_context(java_script_enabled=False, viewport=DESK)
    page = context.new_page()
    page.goto(many_files["en"].as_uri())
    assert page.locator(ROWS).count() == CLAIMS
    assert page.locator("#open-question").is_visible()
    assert not page.locator(".filters").is_visible()
    assert page.locator(".first .tally").is_visible()
    context.close()


def test_the_open_question_is_answered_in_words_before_its_figures(open_many):
    page = open_many(viewport=DESK)
    order = """() => [...document.querySelectorAll('h2, .found, figure, article')]
      .filter(e => e.closest('section')?.querySelector('#open-question'))
      .map(e => e.className || e.tagName.toLowerCase())"""
    assert page.evaluate(order) == ["h2", "article", "found", "figure"]
    assert (
        page.evaluate(
            "document.getElementById('claims').closest('section').querySelectorAll('article').length"
        )
        == 17
    )


def test_the_contents_stand_beside_or_fold(open_many):
    page = open_many(viewport=DESK)
    assert page.locator(".contents.beside").is_visible()
    assert not page.locator(".contents.folded").is_visible()
    page.set_viewport_size(PHONE)
    assert not page.locator(".contents.beside").is_visible()
    assert not page.locator(".contents.folded li").first.is_visible()
    page.locator(".contents.folded summary").press("Enter")
    assert page.locator(".contents.folded li").first.is_visible()


def test_the_page_in_chinese_says_so_and_leads_to_the_english_one(open_many):
    page = open_many("zh", viewport=DESK)
    assert page.locator("html").get_attribute("lang") == "zh"
    assert page.get_by_role("heading", name="笔记留下的问题").is_visible()
    assert page.locator(".slider button").first.inner_text() == "播放"
    assert page.locator(".legend").first.get_attribute("aria-label") == "曲线"
    page.get_by_role("link", name="English").click()
    page.wait_for_selector("html[lang=en][data-drawn]")
    assert page.get_by_role("link", name="中文").get_attribute("href") == "report.zh.html"


def test_the_full_run_stands_beside(open_many):
    page = open_many(viewport=DESK)
    first = page.locator(ROWS).first
    assert first.locator("td").first.inner_text() == "supported"
    assert first.locator(".full-cell").inner_text() == "contradicted"
    missing = page.locator(ROWS).filter(has_text="Before the activation")
    assert missing.locator(".full-cell").inner_text() == "–"


def test_long_words_without_spaces_are_broken_in_figures(open_page, tmp_path):
    def chinese(text: str) -> str:
        return "批标准化让损失曲面更平滑，梯度更可预测，可以用更大的学习率" if len(text) > 15 else "训练步数"

    study = translated(many(claims=many().claims[:4]), chinese)
    path = write_page(study, tmp_path / "report.html", lang="zh")
    for width in (1280, 390):
        page = open_page(path, viewport={"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(CLIPPED) == []
