import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from xhat.report import build, write_page, write_pages

from .many import full, many
from .sample import study

CHROMIUM = Path("/usr/bin/chromium")


def _absent(what: str) -> None:
    if os.environ.get("XHAT_REQUIRE_CHROMIUM") == "1":
        pytest.fail(f"{what} is missing, and XHAT_REQUIRE_CHROMIUM=1 asks for it")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM.exists():
        _absent(f"Debian's {CHROMIUM}")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _absent("Playwright")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(autouse=True)
def nothing_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of tests show no shipped run unless they ask for one: the real one is data, and changes."""
    monkeypatch.setattr(build, "shipped", lambda: None)


@pytest.fixture(scope="session")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "shipped", lambda: None)
        return write_page(study(), tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="session")
def many_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of a study of all claims beside a full run, by language."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "shipped", full)
        return write_pages(many(), tmp_path_factory.mktemp("many"))


class Opened:
    """A page in Chromium, with what it said and what it asked for."""

    def __init__(self, browser, path: Path, *, drawn: bool = True, **context) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append("a dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-drawn]")
        if drawn:
            for plot in self.page.locator(".plot").all():
                plot.scroll_into_view_if_needed()
            self.page.wait_for_selector("html[data-drawn=all]")


@pytest.fixture
def open_page(browser, page_file: Path) -> Iterator:
    """Open a page, with all figures drawn; at the end nothing may have been said, nothing fetched but the page."""
    opened: list[Opened] = []

    def open_it(path: Path = page_file, **context):
        opened.append(Opened(browser, path, **context))
        return opened[-1].page

    yield open_it
    for one in opened:
        one.context.close()
        assert one.said == []
        assert all(asked.startswith("file:") and asked.endswith(".html") for asked in one.asked)
