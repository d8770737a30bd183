"""Result dataclasses to JSON and back. JSON has no NaN: non-finite numbers are kept as strings."""

import dataclasses
import json
import math
import types
import typing
from typing import Any, TypeVar

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
    if isinstance(value, bool | int | str) or value is None:
        return value
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number


def _decode(value: Any, kind: Any) -> Any:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _decode(item, hints[name]) for name, item in value.items()})
    if origin is tuple:
        (inner, *rest) = typing.get_args(kind)
        if rest and rest[0] is not Ellipsis:
            return tuple(_decode(item, part) for item, part in zip(value, (inner, *rest), strict=True))
        return tuple(_decode(item, inner) for item in value)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(kind)
        if value is None and type(None) in options:
            return None
        if isinstance(value, str) and str in options:  # a table's cell; "NaN" in one stays a word
            return value
        return _decode(value, next(option for option in options if option not in (type(None), str)))
    if kind is float:
        return _SPECIAL[value] if isinstance(value, str) else value
    return value
