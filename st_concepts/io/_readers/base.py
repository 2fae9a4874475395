"""What a reader of a kind of input has to say of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anndata import AnnData

from st_concepts._registry import Registry


@dataclass(frozen=True)
class Reader:
    """A kind of input: how it is told from others, and how it is read; see `st_concepts.io.register`.

    Attributes
    ----------
    kind
        What users type, ``kind="visium"``.
    what
        What it is called in messages and tables.
    expects
        How it is recognised, in words: what a path of this kind is or holds.
    detect
        ``path -> bool``: whether a file or a folder, either may come, is of this kind. It leaves what is of another
        kind to the others and raises nothing.
    read
        ``(path, **options) -> AnnData`` with raw counts, ``obsm["spatial"]`` and, where it is known,
        ``obs["section"]`` (float64, n_obs x 2; a column of names).
    options
        Options of `st_concepts.io.read` and of the command line that ``read`` takes, of ``"table"``, ``"bin_size"``,
        ``"load_images"`` and ``"image"``. The first two are refused for kinds that do not take them; without
        ``"load_images"``, images are dropped once they are read.
    short
        What it is called where an option is said to be for it; by default ``what``.
    clear_errors
        Whether its errors are shown as they are where they name the file; else they follow what was expected.
    order
        The lowest is asked first. Kinds of the package have 10 to 40; tables of text, which many things are, 90.
    """

    kind: str
    what: str
    expects: str
    detect: Callable[[Path], bool]
    read: Callable[..., AnnData]
    options: tuple[str, ...] = ()
    short: str = ""
    clear_errors: bool = True
    order: int = 50

    @property
    def name(self) -> str:
        """The same as ``kind``."""
        return self.kind


READERS: Registry[Reader] = Registry("reader", Reader, "st_concepts.io._readers", order=lambda reader: reader.order)


def register(reader: Reader, *, replace: bool = False) -> Reader:
    """Make a kind of input known to `st_concepts.io.read`, `st_concepts.io.detect_kind` and ``st-concepts run``.

    Parameters
    ----------
    reader
        What to add.
    replace
        Whether it may take the place of another of the same kind.

    Returns
    -------
    The reader itself.

    Raises
    ------
    TypeError
        It is no `Reader`.
    ValueError
        Its kind is no word, or taken.

    Examples
    --------
    >>> import st_concepts as stc
    >>> table = stc.io.READERS["st"]
    >>> stc.io.register(table) is table  # the same again: nothing happens
    True
    """
    READERS.fill()  # so that it is told what the package has already
    return READERS.register(reader, replace=replace)


def takers(option: str) -> str:
    """What takes an option, in words."""
    return " or ".join(r.short or r.what for r in READERS.values() if option in r.options)
