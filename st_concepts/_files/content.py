"""What a file really is, where it is not what its name says: pointers, web pages, archives, data of other programs."""

from __future__ import annotations

import gzip
import zlib
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from st_concepts._files import real, repair

GZIP_MAGIC = b"\x1f\x8b"
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_HEAD = 1024  # bytes; the mark of a tar archive is at 257

# how a file begins -> what it is, and what to do
_POINTERS = (
    (b"version https://git-lfs.github.com/spec/", "is a Git LFS pointer, not the file itself; fetch it: git lfs pull."),
    (b"/annex/objects/", "is a git-annex pointer, not the file itself; fetch it: git annex get."),
)
_ARCHIVES = (
    (b"PK\x03\x04", "is a zip archive; unpack it and name what was in it."),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it and name what was in it."),
    (b"Rar!", "is a rar archive; unpack it and name what was in it."),
    (b"BZh", "is compressed by bzip2; unpack it: bunzip2."),
    (b"\xfd7zXZ", "is compressed by xz; unpack it: unxz."),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd; unpack it: unzstd."),
)
_EXCEL = "is an Excel workbook; save its sheet as CSV."
_R = "holds R objects; write counts and labels from R to .h5ad (zellkonverter, anndataR) or to tables."
_R_MARKS = (b"RDX2\n", b"RDX3\n", b"RDA2\n", b"RDA3\n", b"X\n\x00\x00\x00\x02", b"X\n\x00\x00\x00\x03")
_R_NAMES = (".rds", ".rda", ".rdata", ".robj", ".qs", ".qs2")


class ClearError(ValueError):
    """An error whose message already says everything."""


def existing(path: str | PathLike[str]) -> Path:
    """``path`` with ``~`` expanded, where something is there that can be read."""
    path = Path(path).expanduser()
    if not path.exists():
        repair(real(path))  # a store that was being replaced as its process was killed
    if not path.exists():
        raise FileNotFoundError(f"{path} {missing(path)}")
    if path.is_dir():
        return path
    if not path.is_file():
        raise ClearError(f"{path} is neither a file nor a folder.")
    check_content(path)
    return path


def missing(path: Path) -> str:
    """Why nothing is at ``path``, to follow its name."""
    if path.is_symlink():
        target = str(path.readlink())
        if "annex/objects/" in target:
            return "is a git-annex link, and its file is not here; fetch it: git annex get."
        return f"is a link to {target}, which does not exist."
    return f"does not exist (current folder: {Path.cwd()})."


def check_content(path: Path, *, archives: bool = False) -> None:
    """Refuse a file that is known to be something else than data, whatever it is called; an archive may be wanted."""
    with path.open("rb") as handle:
        head = handle.read(_HEAD)
    if archives and head.startswith(b"PK\x03\x04"):
        return
    said = _said(path, head)
    if said is None and head.startswith(GZIP_MAGIC):
        said = _said_inside(path)
    if said is not None:
        raise ClearError(f"{path} {said}")


def open_plain(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked where it is gzipped, which its name need not tell."""
    with path.open("rb") as handle:
        zipped = handle.read(2) == GZIP_MAGIC
    return gzip.open(path) if zipped else path.open("rb")  # type: ignore[return-value]  # both read bytes


def _said(path: Path, head: bytes) -> str | None:
    name = path.name.lower()
    if not head:
        return "is empty (0 bytes); fetch or write it again."
    for mark, text in _POINTERS:
        if head.startswith(mark):
            return text
    if name.endswith(_R_NAMES) or head.startswith(_R_MARKS):
        return _R
    if name.endswith((".xlsx", ".xlsm", ".xls", ".ods")) and not _is_text(head):
        return _EXCEL
    if head.startswith(b"PK\x03\x04") and (b".zgroup" in head or b"zarr.json" in head or ".zarr" in name):
        folder = path.name.removesuffix(".zip")
        folder = folder if folder.endswith(".zarr") else f"{folder}.zarr"
        return f"is a zipped zarr store; unpack it (unzip {path.name} -d {folder}) and name the folder."
    for mark, text in _ARCHIVES:
        if head.startswith(mark):
            return text
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it (tar xf) and name what was in it."
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t")[:200].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page, saved in place of the file (a login or an error, say); fetch the file again."
    if start.startswith(b"<?xml") and b"<error>" in head.lower():
        return "is the error of a server, saved in place of the file; fetch the file again."
    return None


def _said_inside(path: Path) -> str | None:
    """The same for what is gzipped."""
    try:
        with gzip.open(path) as handle:
            head = handle.read(_HEAD)
    except (OSError, EOFError, zlib.error) as error:
        return f"is gzipped, but truncated or corrupt ({error}); fetch it again."
    if head.startswith(HDF5_MAGIC):
        return "is HDF5 within gzip; unpack it (gunzip) and name the unpacked file."
    return _said(path, head) if head else "is gzipped, and empty inside; fetch or write it again."


def _is_text(head: bytes) -> bool:
    return b"\x00" not in head
