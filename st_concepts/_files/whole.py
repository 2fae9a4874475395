"""The one way in which files and stores of users are written: whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .places import expanded, real
from .swap import put
from .temporary import beside, remove, sweep

_KINDS = (
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)
_SYSTEM = ("/proc", "/sys", "/dev")
_MEMORY = "/dev/shm"  # ordinary files
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EROFS}


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path, an empty file, that takes the place of ``path`` when all went well.

    Through a link the link stays and its target is replaced. A file that is replaced hands on its permissions. What
    killed processes left in the folder is removed.
    """
    target = replaceable(path)
    sweep(target.parent)
    temporary = beside(target)
    try:
        _claim(temporary, target)
        yield temporary
        _sync(temporary)
        os.replace(temporary, replaceable(target))
        _sync_folder(target.parent)
    except OSError as error:
        if error.filename is not None and str(error.filename) == str(temporary):
            error.filename = str(target)  # the name that the user knows
        raise
    finally:
        remove(temporary)


@contextmanager
def whole_folder(path: str | os.PathLike[str], is_store: Callable[[Path], bool]) -> Iterator[Path]:
    """A temporary path to make a folder at, which takes the place of ``path`` when all went well.

    ``path`` is nothing, or a folder for which ``is_store`` holds; it is under its name at every moment, see
    `st_concepts._files.swap`.
    """
    target = check_folder(path, is_store)
    sweep(target.parent)
    temporary = beside(target)
    try:
        yield temporary
        if check_folder(target, is_store).exists():
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        put(temporary, target)
        _sync_folder(target.parent)
    finally:
        remove(temporary)


def replaceable(path: str | os.PathLike[str]) -> Path:
    """The place of a file that may be written: nothing or a regular file is there, links followed."""
    target = _usable(path)
    mode = _mode(target)
    if mode is None:
        return target
    if stat.S_ISDIR(mode):
        raise ValueError(f"{path} is a folder; name a file in it.")
    _refuse_special(path, mode)
    return _refuse_protected(path, target)


def check_folder(path: str | os.PathLike[str], is_store: Callable[[Path], bool]) -> Path:
    """The place of a store that may be written: nothing or a store is there, links followed."""
    target = _usable(path)
    mode = _mode(target)
    if mode is None:
        return target
    _refuse_special(path, mode)
    if not stat.S_ISDIR(mode) or not is_store(target):
        raise ValueError(f"{path} is there and no zarr store; it is not replaced, name another.")
    return _refuse_protected(path, target)


def _usable(path: str | os.PathLike[str]) -> Path:
    """The place itself; places of the system are refused, and links into folders that do not exist."""
    target = real(path)
    step = expanded(path)
    for _ in range(40):  # links, one after the other: /dev/stdout is one, whatever it leads to
        folder = real(step.parent)
        if any(folder.is_relative_to(place) for place in _SYSTEM) and not folder.is_relative_to(_MEMORY):
            raise ValueError(f"{path} is a place of the system, not a file; name a file.")
        if not step.is_symlink():
            break
        step = step.parent / os.readlink(step)
    if expanded(path).is_symlink() and not target.parent.is_dir():
        raise ValueError(f"{path} is a link to {target}, whose folder does not exist; name another or remove the link.")
    return target


def _mode(target: Path) -> int | None:
    try:
        return target.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _refuse_special(path: str | os.PathLike[str], mode: int) -> None:
    for test, name in _KINDS:
        if test(mode):
            raise ValueError(f"{path} is {name}; only a regular file is replaced, name another.")


def _refuse_protected(path: str | os.PathLike[str], target: Path) -> Path:
    if not os.access(target, os.W_OK):
        raise ValueError(f"{path} is write-protected; name another, or change its permissions.")
    return target


def _claim(temporary: Path, target: Path) -> None:
    """Make the temporary file, from the first byte as private as the file that it replaces."""
    before = _mode(target)
    try:
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if before is None else 0o600)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"Cannot write {str(target)!r}: the folder {str(target.parent)!r} does not exist."
        ) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from None
    os.close(handle)
    if before is not None:
        os.chmod(temporary, stat.S_IMODE(before) & 0o777)


def _sync(path: Path) -> None:
    """To the disk, so that a power cut after the rename finds the content too."""
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # the file is complete and has its name; some systems cannot open folders
        _sync(folder)
