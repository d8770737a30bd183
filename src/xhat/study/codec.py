"""Result dataclasses to JSON and back.

JSON has no NaN: non-finite numbers are kept as strings, and a word that reads like one has a backslash
before it, so that the cell "NaN" of a table and a number that is none stay apart. A phrase is kept as its
template and values, so that it can be said in another language.
"""

import dataclasses
import json
import math
import types
import typing
from typing import Any, Literal, TypeVar

import numpy as np

from xhat.lang import Phrase

T = TypeVar("T")

_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def dumps(value: Any) -> str:
    """Return a dataclass, or plain data, as JSON text."""
    return json.dumps(_encode(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def loads(text: str, kind: type[T]) -> T:
    """Read JSON text as an instance of the dataclass ``kind``.

    Raises:
        ValueError: the text is not JSON, or a field is missing or of another type.
    """
    try:
        result: T = _decode(json.loads(text), kind)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a {kind.__name__}: {error}") from error
    return result


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Phrase):
        return {"say": value.template, "with": _encode(value.values)}
    if isinstance(value, str):
        return f"\\{value}" if _is_special(value) else value
    if isinstance(value, bool | int) or value is None:
        return value
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number


def _decode(value: Any, kind: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"say", "with"}:
        return _phrase(value)
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _decode(item, hints[name]) for name, item in value.items()})
    if origin is tuple:
        return _decode_tuple(value, typing.get_args(kind))
    if origin in (typing.Union, types.UnionType):
        return _decode(value, _fitting(value, typing.get_args(kind)))
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise TypeError(f"{value!r} is none of {typing.get_args(kind)}")
        return value
    return _decode_scalar(value, kind)


def _phrase(value: dict[str, Any]) -> Phrase:
    def back(item: Any) -> Any:
        if isinstance(item, dict):
            return _phrase(item)
        if isinstance(item, str):
            return _SPECIAL.get(item, item[1:] if _is_special(item) else item)
        return item

    return Phrase(value["say"], {name: back(item) for name, item in value["with"].items()})


def _decode_tuple(value: Any, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    if parts[-1] is Ellipsis:
        return tuple(_decode(item, parts[0]) for item in value)
    return tuple(_decode(item, part) for item, part in zip(value, parts, strict=True))


def _fitting(value: Any, options: tuple[Any, ...]) -> Any:
    """Return the option of a union that this JSON value was made from."""
    if isinstance(value, str) and value in _SPECIAL and float in options:
        return float
    if type(value) in options:
        return type(value)
    return next((option for option in options if option not in (type(None), str)), options[0])


def _decode_scalar(value: Any, kind: Any) -> Any:
    if kind is float and isinstance(value, str):
        return _SPECIAL[value]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind and not (value is None and kind is type(None)):
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value[1:] if kind is str and _is_special(value) else value


def _is_special(word: str) -> bool:
    return word.lstrip("\\") in _SPECIAL
