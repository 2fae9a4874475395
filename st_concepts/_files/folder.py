"""The folder that a file goes to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make a folder, and see that files can be put into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"Folder {folder} cannot be made ({error.strerror}); name another.") from None
    if not writable(folder):
        raise OSError(f"Folder {folder} cannot be written; name another, or change its permissions.")


def writable(folder: Path) -> bool:
    """Whether a file can be made in a folder: tried, since permissions do not tell all (read-only disks, /proc)."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
