"""The folder that a file goes to."""

from __future__ import annotations

import os
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make a folder, and see that files can be put into it.

    Raises
    ------
    OSError
        It cannot be made or written; the message names it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"Folder {folder} cannot be made ({error.strerror}); name another.") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(f"Folder {folder} cannot be written; name another, or change its permissions.")
