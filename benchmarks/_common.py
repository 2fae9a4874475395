"""What every benchmark needs: timing, peak memory, a table on the screen and JSON on disk."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

OUT = Path("build/benchmarks")


@dataclass
class Measured:
    """Seconds of a block, of processor time too, and mebibytes by which memory rose at its peak."""

    seconds: float = float("nan")
    cpu_seconds: float = float("nan")
    peak_mib: float | None = None


@contextmanager
def measured() -> Iterator[Measured]:
    """Time a block and measure its peak resident memory above what was there before.

    The peak comes from the kernel (``VmHWM``, reset through ``/proc/self/clear_refs``), so short peaks count; elsewhere
    than on Linux it is `None`. Memory that was freed before is given back first, so that its reuse counts as well.
    """
    result = Measured()
    before = _reset_peak()
    start, cpu = time.perf_counter(), time.process_time()
    yield result
    result.seconds, result.cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    after = _status("VmHWM")
    if before is not None and after is not None:
        result.peak_mib = max(0.0, (after - before) / 1024)


def peak_mib() -> int | None:
    """Peak resident memory of this process so far, in MiB; `None` elsewhere than on Linux."""
    peak = _status("VmHWM")
    return None if peak is None else peak // 1024


def _status(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(field + ":")), None)


def _reset_peak() -> int | None:
    gc.collect()
    # elsewhere than with glibc the peak may come out too low
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned columns; columns in the order in which they first appear, numbers rounded for reading."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[_cell(row.get(c)) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def environment(*packages: str) -> dict[str, Any]:
    """Machine and versions, to be written with the figures."""
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": versions,
    }


def write_json(name: str, content: Mapping[str, Any], *, out: Path = OUT) -> Path:
    """Write ``content`` to ``out/name.json``, complete or not at all, and return the path."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    part = path.with_suffix(".json.part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(path)
    return path
