"""Names that a user asks for: one or several, of any type, and what to say where there is no such name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def as_name(value: Any) -> str:
    """One name as text: integers of numpy and of Python, whole floats (``0.0`` for ``0``) and text are alike.

    Examples
    --------
    >>> as_name(np.int64(3)), as_name(3.0), as_name("3")
    ('3', '3', '3')
    """
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def as_names(value: Any) -> list[str]:
    """A name, or several, as a list of text; a single one is never read letter by letter.

    Examples
    --------
    >>> as_names("GCL"), as_names(0), as_names(["ONL", "GL"]), as_names(np.arange(2))
    (['GCL'], ['0'], ['ONL', 'GL'], ['0', '1'])
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        return [as_name(value)]
    return [as_name(v) for v in value]


def unknown_name(name: str, known: Sequence[str]) -> str:
    """What there is, and which of it was likely meant; at most twenty names are listed.

    Examples
    --------
    >>> unknown_name("GCI", ["ONL", "GCL"])
    "there are: ONL, GCL. Did you mean 'GCL'?"
    """
    known = [str(k) for k in known]
    listed = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
    lower = {k.lower(): k for k in reversed(known)}
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    meant = lower.get(name.lower()) or (close[0] if close else None)
    return f"there are: {listed or 'none'}." + (f" Did you mean {meant!r}?" if meant else "")


def check_filled(**given: Any) -> None:
    """Raise `ValueError` where an argument was given that names nothing: ``genes={}``, ``groups=[]``."""
    for name, value in given.items():
        if value is not None and hasattr(value, "__len__") and len(value) == 0:
            raise ValueError(f"{name} is empty: give at least one, or leave {name} out.")
