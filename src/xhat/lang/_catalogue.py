"""The catalogue of a language: JSON files in and below the folder of its name, from English to that language."""

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from xhat.errors import unknown
from xhat.lang._phrase import Name, Phrase, template_of

LANGUAGES = ("en", "zh")
Translate = Callable[[str], str]

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_LETTER = re.compile(r"[^\W\d_]")


@cache
def catalogue(language: str) -> dict[str, str]:
    """Return all entries of a language, from the English template to its translation; English has none.

    Raises:
        UsageError: there is no such language.
        ValueError: an English text has two different translations.
    """
    if language not in LANGUAGES:
        raise unknown("language", language, LANGUAGES)
    found: dict[str, str] = {}
    if language == "en":
        return found
    for part in _parts(files("xhat.lang").joinpath(language)):
        for english, translated in json.loads(part.read_text(encoding="utf-8")).items():
            if found.setdefault(english, translated) != translated:
                raise ValueError(f"{part}: a second translation of {english!r}")
    return found


def _parts(folder: Traversable) -> Iterator[Traversable]:
    """Yield the JSON files of a folder and of those in it."""
    for part in sorted(folder.iterdir(), key=lambda part: part.name):
        if part.is_dir():
            yield from _parts(part)
        elif part.name.endswith(".json"):
            yield part


def needs_translation(text: str) -> bool:
    """Whether the text has letters outside its placeholders."""
    return bool(_LETTER.search(_PLACEHOLDER.sub("", template_of(text))))


def translator(language: str, *, missing: Callable[[str], None] | None = None) -> Translate:
    """Return the function that says a text in a language.

    Args:
        language: "en" or "zh".
        missing: Is told the English of every text that has no translation, and so stays English.

    Raises:
        UsageError: there is no such language.
    """
    entries = catalogue(language)
    if language == "en":
        return str

    def translate(text: str) -> str:
        if isinstance(text, Name):
            return text
        template = template_of(text)
        found = entries.get(template)
        if found is None:
            if missing is not None and needs_translation(template):
                missing(template)
            found = template
        if not isinstance(text, Phrase):
            return found
        values = {
            name: translate(value) if isinstance(value, str) else value for name, value in text.values.items()
        }
        return found.format(**values)

    return translate
