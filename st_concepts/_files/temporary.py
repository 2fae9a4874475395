"""Names of temporary files that say whose they are, and the removal of those whose process is gone.

A name holds the machine, its boot, the process, when the process began, and a random part. So a file is removed only
where it is certain that nobody writes to it: its process was on this machine and is no more, or another process has its
number today. What another machine or container left on a shared disk stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import sys
from pathlib import Path

PREFIX = ".st_concepts-"
_NAME = re.compile(
    r"\.st_concepts-(?P<machine>[0-9a-f]{12})-(?P<boot>[0-9a-f]{8})-(?P<pid>[0-9]{1,10})-(?P<start>[0-9]{1,20})-"
    r"[0-9a-f]{8}(?:\.[^/]*)?"
)
_LONGEST_SUFFIX = 12


def beside(path: Path) -> Path:
    """A name for a temporary file or folder in the folder of ``path``, with the same ending."""
    suffix = path.suffix if len(path.suffix) <= _LONGEST_SUFFIX else ""
    pid = os.getpid()
    who = f"{_machine()}-{_boot()}-{pid}-{_start(pid) or 0}"
    return path.with_name(f"{PREFIX}{who}-{secrets.token_hex(4)}{suffix}")


def is_temporary(name: str) -> bool:
    """Whether `beside` made a name."""
    return _NAME.fullmatch(name) is not None


def is_dead(path: Path) -> bool:
    """Whether the process that made a temporary file is certainly gone."""
    match = _NAME.fullmatch(path.name)
    if match is None or match["machine"] != _machine() or sys.platform == "win32":
        return False
    if match["boot"] != _boot():
        return _before_boot(path)
    pid = int(match["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass  # a process of another user
    start = _start(pid)
    # a process that has ended, but that nobody asked about yet, has no start
    return start is not None and start != int(match["start"])


def sweep(folder: Path, *, keep: frozenset[str] = frozenset()) -> None:
    """Remove what processes left in a folder that were killed while they wrote; stores are put back first."""
    from .swap import repair_all

    keep |= repair_all(folder)
    try:
        names = [name for name in os.listdir(folder) if name.startswith(PREFIX) and is_temporary(name)]
    except OSError:
        return
    for name in names:
        if name not in keep and is_dead(folder / name):
            remove(folder / name)


def remove(path: Path) -> None:
    """Remove a file or folder as far as it can be; a link, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):  # of another user, say; it is hidden and does no harm
        path.unlink(missing_ok=True)


def _machine() -> str:
    # a container may carry the name of its host, but has processes of its own
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{os.uname().nodename if hasattr(os, 'uname') else ''}|{space}".encode()).hexdigest()[:12]


def _boot() -> str:
    text = _read("/proc/sys/kernel/random/boot_id") or ""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:8]


def _start(pid: int) -> int | None:
    """When a process began, in ticks since the boot; -1 for one that has ended, `None` where that cannot be known."""
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything
    return -1 if fields[0] in "ZX" else int(fields[19])


def _before_boot(path: Path) -> bool:
    match = re.search(r"^btime (\d+)$", _read("/proc/stat") or "", re.MULTILINE)
    try:
        return match is not None and path.lstat().st_mtime < int(match[1])
    except OSError:
        return False


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
