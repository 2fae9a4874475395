"""What a user did wrong, in one line; third-party chatter kept away from the terminal."""

from __future__ import annotations

import contextlib
import dis
import importlib.metadata
import io
import os
import platform
import re
import sys
import tempfile
import traceback
import warnings
from types import FrameType

PROGRAM = "st-concepts"


class UsageError(Exception):
    """Input that cannot be used; the message says what to do instead."""


_PACKAGE = __name__.split(".", maxsplit=1)[0]
_RAISE = dis.opmap["RAISE_VARARGS"]


def foreseen(error: BaseException) -> bool:
    """Whether an error is for the user: one of our own checks raised it, or the system refused a file.

    The type does not tell: a `KeyError` may be a clear sentence about a column, or a dictionary that we believed to
    hold something. What tells is whether the line that it comes from is a ``raise`` of this package.
    """
    if isinstance(error, UsageError):
        return True
    if isinstance(error, OSError):
        return bool(error.strerror or str(error))
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if isinstance(error, AssertionError):
        return False
    return isinstance(error, Exception) and trace is not None and _raises_here(trace.tb_frame, trace.tb_lasti)


def _raises_here(frame: FrameType, at: int) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return module.split(".", maxsplit=1)[0] == _PACKAGE and frame.f_code.co_code[at] == _RAISE


def out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, on the processor or a GPU."""
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )


def unforeseen_line(error: BaseException) -> str:
    """One line for an error that no check foresaw; its traceback goes to a file that the line names."""
    what = f"{type(error).__name__}: {one_line(error)}" if str(error).strip() else type(error).__name__
    kept = _keep_traceback(error)
    where = f"The traceback is in {kept}; please" if kept else "Please"
    return f"nobody foresaw this: {what[:300].rstrip('.')}. {where} report it. No input was changed."


def _keep_traceback(error: BaseException) -> str | None:
    versions = [f"Python {platform.python_version()} on {platform.platform()}"]
    for name in ("st_concepts", "anndata", "h5py", "numpy", "pandas", "scanpy", "scipy", "squidpy", "torch", "zarr"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    trace = "".join(traceback.format_exception(error))
    text = "\n".join([f"{PROGRAM} {' '.join(map(repr, sys.argv[1:]))}", *versions, "", trace])
    try:
        handle, path = tempfile.mkstemp(prefix=f"{PROGRAM}-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return None
    return path


def any_text_can_be_said() -> None:
    """Characters that the terminal does not know (``LC_ALL=C``) are written as escapes; they are no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def one_line(error: BaseException) -> str:
    """The message without quotes, line breaks and repeated blanks."""
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])
    elif isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}."
    else:
        text = str(error)
    return _OPTION.sub(_as_option, " ".join(text.split())) or type(error).__name__


# messages are written for Python; "pass layer='counts'" is "pass --layer counts" here
_OPTION = re.compile(
    r"(?<![\w.\[-])(layer|batch_key|section_key|table|kind|bin_size|scale|n_latent|null|max_epochs|column|missing|estimator)"
    r"=(?:'([^']*)'|([\w.]*))"
)


def _as_option(match: re.Match[str]) -> str:
    name, quoted, bare = match.groups()
    option = f"--{name.replace('_', '-')}"
    return option + bare if bare == "." else f"{option} {quoted or bare}".rstrip()


def say(text: str) -> None:
    """A line on stdout, at once; to nowhere where the reader has gone (``| head``), for the work goes on."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _nowhere(sys.stdout)


def complain(kind: str, text: str) -> None:
    """One line on stderr."""
    try:
        print(f"{PROGRAM}: {kind}: {text}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        _nowhere(sys.stderr)


def _nowhere(stream: io.TextIOBase | object) -> None:
    with contextlib.suppress(OSError, AttributeError, ValueError), open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())  # type: ignore[union-attr]  # a real file has one


def quiet_warnings() -> None:
    """Our warnings as one line on stderr; those that users cannot act on not at all."""
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, SyntaxWarning, RuntimeWarning):
        warnings.filterwarnings("ignore", category=category)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(?!st_concepts)")

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        complain("warning", _OPTION.sub(_as_option, " ".join(str(message).split())))

    warnings.showwarning = show
