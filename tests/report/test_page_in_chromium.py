"""The page as a reader sees it: in Chromium, from a file."""

import pytest

pytestmark = pytest.mark.chromium

FIGURES = 6
SMOOTHER = "document.querySelector('#claim-smoother-loss .plot')"

DRAWN = """plots => plots.map(plot => ({
  svg: plot.querySelectorAll('.main-svg').length,
  traces: plot.querySelectorAll('.scatterlayer .trace').length,
  panels: plot._fullLayout._plots ? Object.keys(plot._fullLayout._plots).length : 0,
}))"""

OUTSIDE = """() => [...document.querySelectorAll('main *')]
  .filter(e => !e.closest('.scroll, .what') && !e.closest('svg') && e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.outerHTML.slice(0, 80))"""

SETTLED = """() => [...document.querySelectorAll('.plot')]
  .every(plot => plot._fullLayout.width === Math.floor(plot.clientWidth))"""

CLIPPED = """() => [...document.querySelectorAll('.plot')].flatMap(plot => {
  const frame = plot.getBoundingClientRect();
  return [...plot.querySelectorAll('.main-svg text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1
      || box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
  }).map(text => text.textContent);
})"""

BACKGROUND = "() => getComputedStyle(document.body).backgroundColor"
INK = "() => getComputedStyle(document.querySelector('.plot .xtitle')).fill"


def test_every_figure_is_drawn(open_page):
    drawn = open_page(viewport={"width": 1280, "height": 800}).eval_on_selector_all(".plot", DRAWN)
    assert len(drawn) == FIGURES
    assert all(plot["svg"] and plot["traces"] for plot in drawn)
    assert [plot["panels"] for plot in drawn] == [2, 3, 2, 4, 1, 1]  # the open question comes first


def test_at_every_width_all_fits_and_panels_stack_where_they_must(open_page):
    page = open_page(viewport={"width": 1280, "height": 800})
    columns = {}
    for width in (1280, 980, 820, 600, 390, 360):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_function(SETTLED)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(OUTSIDE) == []
        assert page.evaluate(CLIPPED) == []
        columns[width] = page.evaluate(f"{SMOOTHER}._fullLayout.grid.columns")
    assert (columns[1280], columns[600], columns[360]) == (3, 2, 1)


def test_the_slider_changes_what_is_drawn_and_not_the_axes(open_page):
    page = open_page()
    plot = "document.querySelector('[data-figure$=distributions-figure-1]')"
    line = f"() => {plot}.querySelectorAll('.js-line')[1].getAttribute('d')"
    axes = f"() => JSON.stringify([{plot}._fullLayout.xaxis.range, {plot}._fullLayout.yaxis2.range])"
    before, range_before = page.evaluate(line), page.evaluate(axes)
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator(".slider output").inner_text() == "40"
    assert slider.get_attribute("aria-valuetext") == "training step: 40"
    assert page.evaluate(line) != before
    assert page.evaluate(axes) == range_before


def test_play_runs_to_the_end_and_stops(open_page):
    page = open_page()
    page.get_by_role("slider").fill("10")
    page.get_by_role("button", name="Play").click()
    assert page.get_by_role("button", name="Pause").is_visible()
    page.get_by_role("button", name="Play").wait_for()
    assert page.locator(".slider output").inner_text() == "240"


def test_the_legend_hides_a_curve_in_all_panels(open_page):
    page = open_page()
    shown = f"() => {SMOOTHER}.querySelectorAll('.scatterlayer .trace').length"
    before = page.evaluate(shown)
    key = page.locator("#claim-smoother-loss figure").get_by_role("button", name="batch norm")
    key.click()
    assert key.get_attribute("aria-pressed") == "false"
    assert page.evaluate(shown) < before - 3  # a line in each of three panels, and its bands
    key.click()
    assert page.evaluate(shown) == before


def test_dark_mode_is_followed_while_the_page_is_open(open_page):
    page = open_page(color_scheme="light")
    light = page.evaluate(BACKGROUND), page.evaluate(INK)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(BACKGROUND), page.evaluate(INK)
    assert light == ("rgb(252, 252, 250)", "rgb(29, 32, 36)")
    assert dark == ("rgb(21, 23, 26)", "rgb(230, 229, 224)")


def test_hostile_names_are_only_text(open_page):
    page = open_page()
    assert page.locator("main img, main iframe, main script, a[href^='javascript']").count() == 0
    assert page.locator("main svg image, main svg a, main svg script").count() == 0
    assert page.get_by_text("<script>alert(1)</script>").count() > 5
    assert (
        "scale of the weights <img src=x onerror=alert(2)>"
        in page.locator(".plot .xtitle").all_text_contents()
    )


def test_print_shows_figures_in_light_colours_and_opens_details(open_page):
    page = open_page(color_scheme="dark", viewport={"width": 700, "height": 900})
    page.emulate_media(media="print", color_scheme="dark")
    page.wait_for_function("() => document.documentElement.classList.contains('printing')")
    assert page.evaluate(INK) == "rgb(29, 32, 36)"
    closed = "document.querySelectorAll('details:not([open])').length"
    assert page.evaluate(closed) == 0
    assert not page.get_by_role("slider").is_visible()
    assert page.locator(".slider output").is_visible()
    assert all(plot["svg"] for plot in page.eval_on_selector_all(".plot", DRAWN))
    page.emulate_media(media="screen")
    page.wait_for_function("() => !document.documentElement.classList.contains('printing')")
    assert page.evaluate(closed) == page.locator("details").count()


def test_links_lead_to_sections_and_the_keyboard_reaches_them(open_page):
    page = open_page()
    missing = page.evaluate(
        "() => [...document.querySelectorAll('a[href^=\"#\"]')].filter(a => !document.getElementById("
        "a.getAttribute('href').slice(1))).map(a => a.outerHTML)"
    )
    assert missing == []
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
