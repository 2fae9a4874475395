"""A folder in the place of another, so that one of the two is always under the name.

Linux and macOS exchange two folders in one system call, on most local file systems. Where they cannot (some network
disks, other systems) two renames are needed: a journal beside the folder, written before the first and removed after
the second, says what to put back, and the next read or write that misses the folder does so.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .temporary import PREFIX, beside, is_dead, is_temporary, remove

_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
_AT_FDCWD = -100
_JOURNAL = f"{PREFIX}journal-"
_PATIENCE = 5.0  # seconds; the renames of a living process take less


def put(new: Path, target: Path) -> None:
    """Give folder ``new`` the name ``target``; the folder that had it is removed, or on an `OSError` what it was."""
    if not target.exists():
        os.rename(new, target)
    elif exchange(new, target):
        remove(new)
    else:
        _with_journal(new, target)


def exchange(a: Path, b: Path) -> bool:
    """Exchange two names in one step; `False` where the system or the file system cannot."""
    call = _system_call()
    return call is not None and call(os.fsencode(a), os.fsencode(b)) == 0


def _system_call() -> Callable[[bytes, bytes], int] | None:
    try:
        library = ctypes.CDLL(None)
        if sys.platform == "linux":
            call = library.renameat2
            return lambda a, b: int(call(_AT_FDCWD, a, _AT_FDCWD, b, ctypes.c_uint(_EXCHANGE)))
        if sys.platform == "darwin":
            call = library.renamex_np
            return lambda a, b: int(call(a, b, ctypes.c_uint(_EXCHANGE)))
    except (AttributeError, OSError, TypeError):
        pass  # a C library without it
    return None


def _with_journal(new: Path, target: Path) -> None:
    journal, old = _journal_of(target), beside(target)
    draft = beside(journal)
    try:
        with draft.open("w", encoding="utf-8") as file:
            json.dump({"store": target.name, "new": new.name, "old": old.name}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, journal)
        try:
            os.rename(target, old)
            os.rename(new, target)
        except BaseException as error:
            if not target.exists():
                os.rename(old, target)
                raise
            # another process may have waited too long, and have done as the journal says
            if not isinstance(error, FileNotFoundError) or new.exists():
                raise
    finally:
        remove(draft)
        if target.exists():
            remove(journal)
    remove(old)


def _journal_of(target: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
    return target.with_name(f"{_JOURNAL}{digest}.json")


def repair(path: Path) -> None:
    """Put back the folder at ``path``, or around it, that a killed process left without its name."""
    for place in (path, *path.parents):
        if place.exists():
            return
        journal = _journal_of(place)
        if journal.is_file():
            _settle(journal)


def repair_all(folder: Path) -> frozenset[str]:
    """Settle every journal in a folder; returns the names that journals still need."""
    needed: set[str] = set()
    for journal in folder.glob(f"{_JOURNAL}*.json"):
        needed.update(_settle(journal))
    return frozenset(needed)


def _settle(journal: Path) -> tuple[str, ...]:
    try:
        said = json.loads(journal.read_text(encoding="utf-8"))
        store, new, old = (str(said[key]) for key in ("store", "new", "old"))
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    target = journal.with_name(os.path.basename(store))
    if not (is_temporary(new) and is_temporary(old)) or _journal_of(target) != journal:
        return ()  # not written by `put`
    dead = is_dead(journal.with_name(new))
    end = time.monotonic() + _PATIENCE
    while not dead and not target.exists() and journal.exists() and time.monotonic() < end:
        time.sleep(0.02)
        dead = is_dead(journal.with_name(new))
    put_back = not target.exists() and _put_back(journal.with_name(new), journal.with_name(old), target)
    if put_back or (dead and target.exists()):
        remove(journal)
        return ()
    return (new, old)


def _put_back(new: Path, old: Path, target: Path) -> bool:
    """Between the renames both are there, and the new one is whole; without the new one the old one is all there is."""
    if not old.exists():
        return False  # the first rename was never made: the user removed the store since
    for folder in (new, old):
        try:
            os.rename(folder, target)
            return True
        except OSError:
            continue  # another process was quicker
    return False
