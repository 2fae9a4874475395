"""What goes wrong while a file of a user is read, in one line that names the file.

Readers of other libraries raise whatever happens to them on a file that is damaged or of another kind: zlib.error,
RecursionError, struct.error, IORegistryError... None of it tells a person anything. Here it becomes a `ValueError`.
"""

from __future__ import annotations

import csv
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from st_concepts._files.content import ClearError

P = ParamSpec("P")
R = TypeVar("R")

_LONGEST = 400  # characters of a foreign message


def reason(error: BaseException) -> str:
    """What a foreign error says, in words where its own are none, on one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OverflowError):
        return "a number in it is too large"
    if isinstance(error, UnicodeError):
        return "it holds text that is not UTF-8; save it as UTF-8"
    if isinstance(error, EOFError | zlib.error):
        return "it is truncated or corrupt; fetch it again"
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"it asks for more memory than there is ({text or 'no more is known'})"
    if isinstance(error, KeyError):
        return f"it has no {text}"
    if isinstance(error, csv.Error):
        return f"a line is no CSV ({text})"
    if not text or " " not in text:
        return f"{type(error).__name__} {text}".rstrip()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def is_clear(error: BaseException, path: Path) -> bool:
    """Whether an error was raised for people to read: it names the file, or is a sentence of ours about an argument."""
    if isinstance(error, ClearError | ImportError):
        return True
    if isinstance(error, OSError):
        return error.filename is not None or str(path) in str(error)
    if isinstance(error, KeyError):
        return bool(error.args) and " " in str(error.args[0])
    return isinstance(error, ValueError) and not isinstance(error, UnicodeError) and path.name in str(error)


def clear_faults(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate what reads a file: the argument that is a path, or ``where=``, names it in the error."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # whatever a reader of another library raises
            path = _path_among(args, kwargs)
            if path is None or is_clear(error, path):
                raise
            if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
                raise ValueError(f"{path}: {reason(error)}") from error
            raise ValueError(f"{path} cannot be read: {reason(error)}.") from error

    return guarded


def _path_among(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Path | None:
    named: list[str | PathLike[str]] = [a for a in (*args, *kwargs.values()) if isinstance(a, PathLike)]
    named += [a for a in (kwargs.get("where"), *args[:1]) if isinstance(a, str)]
    return Path(named[0]) if named else None
