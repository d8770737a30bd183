"""A sentence made from a template and values: an ordinary string that can be said again in another language."""

from collections.abc import Iterable
from typing import Any, Self


class Phrase(str):
    """The English text of ``template.format(**values)``, with both kept.

    Attributes:
        template: English with ``{name}`` or ``{name:.3g}`` where a value stands.
        values: Numbers, words, or phrases, by name; words and phrases are translated too.
    """

    template: str
    values: dict[str, Any]
    __slots__ = ("template", "values")

    def __new__(cls, template: str, values: dict[str, Any]) -> Self:
        made = super().__new__(cls, template.format(**values))
        made.template = template
        made.values = values
        return made

    def __getnewargs__(self) -> tuple[str, dict[str, Any]]:  # type: ignore[override]
        return self.template, self.values


class Name(str):
    """A name from code, as of a module: the same in every language."""

    __slots__ = ()


def with_names(text: str) -> str:
    """Return a phrase whose plain strings, at any depth, are names; a catalogue may have words that read alike.

    A plain string by itself comes back as it is: it is a sentence.
    """
    if not isinstance(text, Phrase):
        return text
    values = {
        key: with_names(value)
        if isinstance(value, Phrase)
        else Name(value)
        if isinstance(value, str)
        else value
        for key, value in text.values.items()
    }
    return Phrase(text.template, values)


def say(template: str, /, **values: Any) -> Phrase:
    """Return the sentence with its values put in; write the template as one literal, so that it can be found.

    Example:
        ``say("{count} of {total} seeds train", count=3, total=4)``
    """
    return Phrase(template, values)


def listed(parts: Iterable[str], separator: str = "; ") -> str:
    """Return parts joined; each stays translatable."""
    found = list(parts)
    names = [f"part{place}" for place in range(len(found))]
    template = separator.replace("{", "{{").replace("}", "}}").join(f"{{{name}}}" for name in names)
    return Phrase(template, dict(zip(names, found, strict=True)))


def template_of(text: str) -> str:
    """Return what a catalogue knows the text by: its template, or a plain string itself."""
    return text.template if isinstance(text, Phrase) else text
