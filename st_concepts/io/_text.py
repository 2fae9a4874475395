"""Delimited text: opening, field splitting, and count tables straight into CSR."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from st_concepts._files.content import GZIP_MAGIC, existing, missing
from st_concepts.io._readers.spot_names import mostly_spot_names

# float32 holds every integer up to here
_LARGEST_EXACT = 2**24


def existing_file(path: str | PathLike[str], what: str) -> Path:
    """``path`` as a :class:`~pathlib.Path`, or an error that says which input is missing, or is no data."""
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"The {what} file {str(path)!r} {missing(path)}")
    if path.is_dir():
        raise FileNotFoundError(f"The {what} file {str(path)!r} is a folder; name the file.")
    return existing(path)


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield ``(line number, fields)`` of a tab- or comma-separated file, gzipped or not; blank lines are skipped.

    The delimiter is the one of the two that is more frequent in the first line. Quotes around fields are removed.
    """
    with path.open("rb") as raw:
        gzipped = raw.read(2) == GZIP_MAGIC
    delimiter = ""
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") if gzipped else path.open(encoding="utf-8-sig") as handle:
            for number, line in enumerate(handle, start=1):
                line = line.rstrip("\r\n")
                if not line.strip():
                    continue
                if not delimiter:
                    delimiter = "\t" if line.count("\t") >= line.count(",") else ","
                    if delimiter not in line:
                        raise ValueError(
                            f"{path}, line {number}: one column only. Expected a tab- or comma-separated table."
                        )
                fields = line.split(delimiter)
                yield number, [f.strip().strip('"') for f in fields] if '"' in line else fields
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text table ({error}).") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: the gzip file is truncated or corrupt ({error}); fetch it again.") from None
    if not delimiter:
        raise ValueError(f"{path}: the file is empty.")


def _parse_counts(fields: list[str], path: Path, line: int, columns: list[str]) -> np.ndarray:
    """Counts of one row, float64; errors name line and column."""
    if len(fields) != len(columns):
        raise ValueError(
            f"{path}, line {line}: {len(fields)} counts, but the header names {len(columns)} columns. "
            "The file is truncated or a delimiter is missing."
        )
    try:
        row = np.array(fields, dtype=np.float64)
    except ValueError:
        for name, field in zip(columns, fields, strict=True):
            try:
                float(field)
            except ValueError:
                raise ValueError(f"{path}, line {line}, column {name!r}: {field!r} is not a number.") from None
        raise
    # NaN fails every comparison, so the condition is written as what must hold
    good = (row >= 0) & (row <= _LARGEST_EXACT) & (row == np.rint(row))
    if not good.all():
        at = int(np.flatnonzero(~good)[0])
        hint = " The table looks normalised; raw counts are needed." if row[at] > 0 and np.isfinite(row[at]) else ""
        raise ValueError(
            f"{path}, line {line}, column {columns[at]!r}: {fields[at]!r} is not a count "
            f"(an integer from 0 to {_LARGEST_EXACT}).{hint}"
        )
    return row


def read_count_table(path: Path) -> tuple[sp.csr_matrix, list[str], list[str]]:
    """Read a table of counts, one text row at a time, so that no dense matrix is ever held: float32 CSR, spots, genes.

    Spots may be in rows or in columns: whichever side carries coordinates (``XxY``) is taken as the spots. The header
    may lack its corner field, as R writes it.
    """
    rows = read_rows(path)
    header_line, header = next(rows)
    names: list[str] = []
    columns: list[str] = []
    data: list[np.ndarray] = []
    indices: list[np.ndarray] = []
    indptr = [0]
    for line, fields in rows:
        if not columns:
            columns = header if len(fields) == len(header) + 1 else header[1:]
        row = _parse_counts(fields[1:], path, line, columns)
        nonzero = np.flatnonzero(row).astype(np.int32)
        names.append(fields[0])
        indices.append(nonzero)
        data.append(row[nonzero].astype(np.float32))
        indptr.append(indptr[-1] + nonzero.size)
    if not names:
        raise ValueError(f"{path}: a header (line {header_line}) and nothing below it.")
    arrays = (np.concatenate(data), np.concatenate(indices), np.array(indptr, dtype=np.int64))
    if mostly_spot_names(names):
        return sp.csr_matrix(arrays, shape=(len(names), len(columns))), names, columns
    if mostly_spot_names(columns):
        # rows are genes: the same arrays read as CSC are the transpose
        return sp.csc_matrix(arrays, shape=(len(columns), len(names))).tocsr(), columns, names
    raise ValueError(
        f"{path}: neither the rows (first: {names[0]!r}) nor the columns (first: {columns[0]!r}) are named by array "
        "coordinates. Expected spots named 'XxY', such as '16.92x9.015', on one side and genes on the other."
    )
