"""The Chinese catalogue is whole: every text of page and command is in it, with its placeholders."""

import ast
import json
import string
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from jinja2 import Environment
from jinja2.ext import extract_from_ast

from xhat.lang import catalogue, needs_translation

SOURCE = Path(str(files("xhat")))
VERDICTS = ("supported", "contradicted", "inconclusive", "holds", "fails")  # said by name, not as literals


def of_templates() -> Iterator[str]:
    for path in sorted((SOURCE / "report" / "templates").glob("*.j2")):
        tree = Environment().parse(path.read_text(encoding="utf-8"))
        for _line, _name, text in extract_from_ast(tree, ("_", "say")):
            first = text[0] if isinstance(text, tuple) else text
            if first is not None:
                yield first


def of_modules(package: str) -> Iterator[str]:
    for path in sorted((SOURCE / package).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Name(id="_" | "say" | "translate"), args=[ast.Constant(value=str(text)), *_]
                ):
                    yield text
                case ast.Call(func=ast.Attribute(attr="_say"), args=[ast.Constant(value=str(text)), *_]):
                    yield text


SAID = sorted({*of_templates(), *of_modules("cli"), *of_modules("report"), *VERDICTS})


def placeholders(text: str) -> list[tuple[str, str]]:
    return sorted(
        (name, form or "") for _, name, form, _ in string.Formatter().parse(text) if name is not None
    )


def test_the_texts_are_found():
    assert {"The claims, one by one", "{count} problems", "The page: {path}", "{time} left", "done"} <= {
        *SAID
    }
    assert len(SAID) > 100


@pytest.mark.parametrize("text", SAID)
def test_every_text_of_page_and_command_has_its_chinese(text):
    assert text in catalogue("zh") or not needs_translation(text)


@pytest.mark.parametrize("part", ["page", "cli"])
def test_no_text_is_left_that_nothing_says(part):
    held = catalogue_of(part)
    assert held - {*SAID} == set()


def catalogue_of(part: str) -> set[str]:
    return set(json.loads((SOURCE / "lang" / "zh" / f"{part}.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("english", sorted(catalogue("zh")))
def test_a_translation_has_its_englishs_placeholders(english):
    chinese = catalogue("zh")[english]
    assert chinese
    assert placeholders(chinese) == placeholders(english)
