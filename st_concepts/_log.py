"""What the package says while it works: progress bars and log messages, as quiet as ``scanpy.settings.verbosity``."""

from __future__ import annotations

import functools
import importlib.util
import logging
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

ROOT = "st_concepts"
_DEFAULT = logging.INFO
# scanpy: 0 errors, 1 warnings (its default), 2 info, 3 hints, 4 debug
_LEVELS = {0: logging.ERROR, 1: logging.WARNING, 2: logging.INFO, 3: logging.INFO, 4: logging.DEBUG}
_QUIET = 0


def verbosity() -> int:
    """``scanpy.settings.verbosity`` as a number; scanpy's default, 1, where scanpy is not imported yet.

    Examples
    --------
    >>> verbosity() in range(-1, 5)
    True
    """
    settings = getattr(sys.modules.get("scanpy"), "settings", None)
    value = getattr(settings, "verbosity", 1)
    return int(getattr(value, "value", value))


def bar(items: Iterable[Any] | int, *, desc: str, unit: str, progress: bool) -> tqdm:
    """A progress bar over items (or so many steps): in notebooks and on terminals, nowhere else.

    ``progress=False`` draws none. Nor is one drawn where stderr is neither a terminal nor a notebook (log files of a
    cluster), or where ``scanpy.settings.verbosity`` asks for errors only. What is given back is iterable, with
    ``update``, ``set_postfix`` and ``close``, whether drawn or not.

    Examples
    --------
    >>> [i for i in bar(range(3), desc="steps", unit="step", progress=False)]
    [0, 1, 2]
    >>> bar(10, desc="steps", unit="step", progress=False).total
    10
    """
    notebook = in_notebook()
    shown = progress and verbosity() > _QUIET and (notebook or _terminal())
    if shown and notebook and importlib.util.find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm
    else:
        from tqdm.std import tqdm  # tqdm.auto would warn in a notebook without ipywidgets
    total = items if isinstance(items, int) else None
    return tqdm(None if isinstance(items, int) else items, total=total, desc=desc, unit=unit, disable=not shown)


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this; an IPython terminal is none.

    Examples
    --------
    >>> in_notebook()
    False
    """
    ask = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = ask() if ask is not None else None
    return "IPKernelApp" in (getattr(shell, "config", None) or {})


def _terminal() -> bool:
    isatty = getattr(sys.stderr, "isatty", None)
    return bool(isatty and isatty())


def get_logger(name: str) -> logging.Logger:
    """Logger ``st_concepts.<name>``: speaks as ``scanpy.settings.verbosity`` says, until the user sets up logging.

    A level set on the logger, or handlers of the root logger, are the user's and go first.
    """
    handler()
    logger = logging.getLogger(f"{ROOT}.{name}")
    if _wanted not in logger.filters:
        logger.addFilter(_wanted)
    return logger


@functools.cache
def handler() -> logging.Handler:
    """The handler of the package's messages, on stderr; made once."""
    made = _Handler()
    made.setFormatter(logging.Formatter("%(message)s"))
    package = logging.getLogger(ROOT)
    package.addHandler(made)
    if package.level == logging.NOTSET:
        package.setLevel(_DEFAULT)
    return made


class _Handler(logging.Handler):
    """Writes to what ``sys.stderr`` is now, unless the application has handlers of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            print(self.format(record), file=sys.stderr, flush=True)


def _wanted(record: logging.LogRecord) -> bool:
    package, root = logging.getLogger(ROOT), logging.getLogger()
    if logging.getLogger(record.name).level or package.level != _DEFAULT:
        return True  # chosen by the user, and checked already
    if root.handlers:
        return record.levelno >= root.level
    return record.levelno >= _LEVELS.get(verbosity(), logging.INFO)
