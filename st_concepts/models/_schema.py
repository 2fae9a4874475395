"""What a header may hold: small checks that are put together, and say which field is wrong and what it must be."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

Check = Callable[[Any, str], None]
_SHOWN = 60  # characters of a wrong value that a message shows


class FieldError(ValueError):
    """A field that is not what it must be; the message begins with its name."""


def wrong(field: str, must: str, value: Any) -> FieldError:
    """The error of one field."""
    return FieldError(f"{field} must be {must}, not {shown(value)}")


def shown(value: Any) -> str:
    """A value in few characters, on one line."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**18:
        return f"an integer of {value.bit_length()} bits"  # Python refuses to write out very long ones
    if isinstance(value, dict | list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value[: 2 * _SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def integer(low: int, high: int) -> Check:
    """An integer between two others, both allowed; `True` is none."""

    def check(value: Any, field: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise wrong(field, f"an integer from {low} to {high}", value)

    return check


def number(low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Check:
    """A finite number from ``low`` to ``high``; with ``above``, greater than ``low``."""
    must = "a finite number"
    if math.isfinite(low):
        must += f"{' above' if above else ', at least'} {low:g}"
    if math.isfinite(high):
        must += f"{' and' if math.isfinite(low) else ','} at most {high:g}"

    def check(value: Any, field: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong(field, must, value)
        if isinstance(value, int) and abs(value) > 10**300:
            raise wrong(field, must, value)
        if not math.isfinite(value) or not low <= value <= high or (above and value == low):
            raise wrong(field, must, value)

    return check


def measured(value: Any, field: str) -> None:
    """A number of a history, `None` where there was none; infinite ones occur."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, float | int)):
        raise wrong(field, "a number or null", value)


def text(pattern: str = r"(?s).*", must: str = "text") -> Check:
    """Text that matches a pattern from end to end, without halves of characters."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, str) or not re.fullmatch(pattern, value) or _broken(value):
            raise wrong(field, must, value)

    return check


def _broken(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def one_of(values: Collection[Any]) -> Check:
    """One of a few words."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, str) or value not in values:
            raise wrong(field, f"one of {', '.join(map(repr, values))}", value)

    return check


def optional(other: Check) -> Check:
    """What ``other`` takes, or `None`."""

    def check(value: Any, field: str) -> None:
        if value is not None:
            other(value, field)

    return check


def many(other: Check, *, least: int = 0, most: int | None = None, unique: bool = False) -> Check:
    """A list of what ``other`` takes."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, list):
            raise wrong(field, "a list", value)
        if len(value) < least or (most is not None and len(value) > most):
            size = f"{least}" if most == least else f"{least} to {most}" if most is not None else f"at least {least}"
            raise FieldError(f"{field} must have {size} entries, not {len(value)}")
        for i, entry in enumerate(value):
            other(entry, f"{field}[{i}]")
        if unique and len(set(value)) < len(value):
            seen: set[Any] = set()
            for entry in value:
                if entry in seen:
                    raise FieldError(f"{field} holds {shown(entry)} twice")
                seen.add(entry)

    return check


def record(fields: Mapping[str, Check]) -> Check:
    """A dictionary of exactly these fields."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, dict):
            raise wrong(field or "the header", "a dictionary", value)
        begin = f"{field}." if field else ""
        for name in fields:
            if name not in value:
                raise FieldError(f"{begin}{name} is missing")
        for name in value:
            if name not in fields:
                raise FieldError(f"{shown(name)} in {field or 'the header'} is unknown")
        for name, inner in fields.items():
            inner(value[name], f"{begin}{name}")

    return check
