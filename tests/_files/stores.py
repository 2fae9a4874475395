"""Small stores, and processes of their own that write them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from st_concepts import _files

SETTLED = 20.0  # seconds that a child process may take


def anything(_: Path) -> bool:
    return True


def store(path: Path, text: str) -> Path:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "a").write_text(text)
    return path


def text_of(path: Path) -> str:
    return (path / "inner" / "a").read_text()


def hidden(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


def child(code: str, *args: object) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(Path(_files.__file__).parents[2])}
    argv = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
