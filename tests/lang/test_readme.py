"""The Chinese README says what the English one says: same sections, tables and commands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def code(text: str) -> list[tuple[str, list[str]]]:
    """Return language and lines of every block, without comments, what the reader fills in, and the language.

    Of what commands print only the kind of block: it is in the reader's language.
    """
    return [
        (
            kind,
            []
            if kind == "text"
            else [re.sub(r"<.*?>|\s+#.*| --lang zh", "", line) for line in block.splitlines()],
        )
        for kind, block in BLOCK.findall(text)
    ]


def test_code_is_the_same():
    assert code(CHINESE) == code(ENGLISH)
    assert len(code(CHINESE)) > 8


@pytest.mark.parametrize("part", [r"^#+ ", r"^\| `[\w-]+` \|", r"^\| \*\*", r"^- `\w+\("])
def test_headings_tables_and_lists_are_the_same(part):
    """Headings by their level, rows by their name, groups and items by their number."""
    assert re.findall(part, CHINESE, re.MULTILINE) == re.findall(part, ENGLISH, re.MULTILINE)


def test_rows_have_the_same_numbers():
    rows = [re.findall(r"^\| `.*", text, re.MULTILINE) for text in (CHINESE, ENGLISH)]
    assert [re.findall(r"\d+", row) for row in rows[0]] == [re.findall(r"\d+", row) for row in rows[1]]


def test_links_are_the_same():
    english, chinese = ({*re.findall(r"\]\(([^)]+)\)", text)} for text in (ENGLISH, CHINESE))
    assert chinese - {"README.md"} == english - {"README.zh.md"}
    assert "README.md" in chinese
