"""Text of a file that another program wrote: gzipped or not, with or without a byte order mark."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from st_concepts._files.content import GZIP_MAGIC

# longest first: the mark of UTF-16 is the beginning of that of UTF-32
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# text of this size becomes tens of GB of Python objects, and no drawing by hand is near it
_LARGEST = 2**30


def read_head(path: Path, n: int = 4096) -> bytes:
    """The first bytes of a file, those inside where it is gzipped."""
    return _bytes(path, n)


def read_text(path: Path) -> str:
    """The whole of a text file."""
    stored = _bytes(path, _LARGEST + 1)
    if len(stored) > _LARGEST:
        raise ValueError(
            f"{path} holds more than {_LARGEST >> 30} GiB of text, too much for a drawing; export the outlines of the "
            "layers alone, without cells and measurements."
        )
    try:
        return stored.decode(encoding_of(stored))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not text in UTF-8 or UTF-16 (byte {error.start}: {error.reason}); save it as UTF-8."
        ) from None


def encoding_of(stored: bytes) -> str:
    """Encoding by the byte order mark, else by where the zero bytes of ASCII are, else UTF-8."""
    for mark, name in MARKS:
        if stored.startswith(mark):
            return name
    if len(stored) >= 2 and (stored[0] == 0) != (stored[1] == 0):
        return "utf-16-be" if stored[0] == 0 else "utf-16-le"
    return "utf-8"


def _bytes(path: Path, n: int) -> bytes:
    try:
        with path.open("rb") as raw:
            if raw.read(2) != GZIP_MAGIC:
                raw.seek(0)
                return raw.read(n)
        with gzip.open(path, "rb") as handle:
            return handle.read(n)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path}: the gzip file is truncated or damaged ({error}); fetch or export it again."
        ) from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}).") from None
    except MemoryError:
        raise ValueError(f"{path} does not fit into memory; export the outlines of the layers alone.") from None
