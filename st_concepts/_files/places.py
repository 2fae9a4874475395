"""Whether two paths are one place, or one lies in the other: seen through links, hard links, mounts and case."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from pathlib import Path
from typing import Literal

Relation = Literal["is", "lies in", "contains"]

_STORE_MARKS = ("zarr.json", ".zgroup", ".zarray")
_MOST_ENTRIES = 200_000  # of a folder that is looked through for links


def real(path: str | os.PathLike[str]) -> Path:
    """The place that a path leads to, without links, ``~`` and ``..``."""
    path = expanded(path)
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is no usable path ({error}).") from None


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with ``~`` replaced by the home folder."""
    with contextlib.suppress(RuntimeError):  # a user that does not exist: a name like any other
        return Path(path).expanduser()
    return Path(path)


def relation(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Relation | None:
    """How place ``a`` stands to place ``b``.

    Of places that exist the file system decides. Of two that do not yet, names that differ only in case or in the
    form of their accents count as one, as they are on many disks.
    """
    a, b = real(a), real(b)
    if _same(a, b):
        return "is"
    if any(_same(parent, b) for parent in a.parents):
        return "lies in"
    if any(_same(parent, a) for parent in b.parents):
        return "contains"
    return None


def _same(a: Path, b: Path) -> bool:
    if a == b:
        return True
    first, second = _stat(a), _stat(b)
    if first is not None and second is not None:
        return os.path.samestat(first, second)
    return first is None and second is None and _folded(a) == _folded(b)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _folded(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def store_root(path: Path) -> Path:
    """The outermost zarr store that a path lies in, or the path itself."""
    path = real(path)
    for place in (*reversed(path.parents), path):
        if any((place / mark).is_file() for mark in _STORE_MARKS):
            return place
    return path


def linked_from(folder: Path) -> list[Path]:
    """Places outside of a folder that links in it lead to: they are read as if they were in it."""
    root = real(folder)
    found: list[Path] = []
    waiting, left = [root], _MOST_ENTRIES
    while waiting and left > 0:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    left -= 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif entry.is_symlink() and os.path.exists(entry.path):
                        place = Path(entry.path).resolve()
                        # a link to a folder around would make everything an input
                        if relation(place, root) is None and place not in found:
                            found.append(place)
                            if place.is_dir():
                                waiting.append(place)
        except OSError:
            continue
    return found


def hard_linked(folder: Path, file: Path) -> Path | None:
    """The file in a folder that is ``file`` under another name, if there is one."""
    stat = _stat(file)
    if stat is None or stat.st_nlink < 2 or file.is_dir():
        return None
    for base, _, _ in os.walk(folder):
        try:
            with os.scandir(base) as entries:
                for entry in entries:
                    # the number comes with the listing; only a hit costs a look
                    if entry.inode() == stat.st_ino and os.path.samestat(entry.stat(), stat):
                        return Path(entry.path)
        except OSError:
            continue
    return None
