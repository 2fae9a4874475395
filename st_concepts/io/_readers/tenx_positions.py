"""Where the spots of Space Ranger are: ``tissue_positions`` in every form that it was written in."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from st_concepts._files.content import ClearError, check_content, open_plain

# the order of the form without a header
_COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
_ALSO = {"imagerow": "pxl_row_in_fullres", "imagecol": "pxl_col_in_fullres", "tissue": "in_tissue"}
X, Y = "pxl_col_in_fullres", "pxl_row_in_fullres"


def read_positions(path: Path) -> pd.DataFrame:
    """Positions by barcode: ``pxl_col_in_fullres`` (x), ``pxl_row_in_fullres`` (y), and the other columns of the file.

    CSV, TSV or parquet; with a header (then the order does not matter and more columns may be there) or without.
    """
    check_content(path)
    table = _parquet(path) if path.suffix == ".parquet" else _text(path)
    missing = [name for name in ("barcode", X, Y) if name not in table]
    if missing:
        raise ClearError(
            f"{path}: no column {', '.join(missing)}; expected a table with {', '.join(_COLUMNS)}, found "
            f"{', '.join(map(str, table.columns[:8]))}."
        )
    for name in (X, Y, *(c for c in _COLUMNS[1:4] if c in table)):
        numbers = pd.to_numeric(table[name], errors="coerce")
        bad = ~np.isfinite(numbers.to_numpy(dtype=np.float64))
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise ClearError(
                f"{path}: {name} of barcode {table['barcode'].iloc[at]} is {str(table[name].iloc[at])!r}, not a number."
            )
        table[name] = numbers
    barcodes = table["barcode"].astype(str)
    if not barcodes.is_unique:
        raise ClearError(f"{path}: barcode {barcodes[barcodes.duplicated()].iloc[0]} occurs more than once.")
    return table.drop(columns="barcode").set_index(pd.Index(barcodes.to_numpy()))


def rows_of(barcodes: pd.Index, positions: pd.DataFrame) -> tuple[np.ndarray, str | None]:
    """Row of ``positions`` for each barcode (-1: none), and a remark where only barcodes without suffix agree."""
    rows = positions.index.get_indexer(barcodes)
    if (rows >= 0).any() or len(barcodes) == 0:
        return rows, None
    own, theirs = (pd.Index([_bare(name) for name in names]) for names in (barcodes, positions.index))
    if not own.is_unique or not theirs.is_unique:
        return rows, None
    rows = theirs.get_indexer(own)
    hits = int((rows >= 0).sum())
    if not hits:
        return rows, None
    first = int(np.flatnonzero(rows >= 0)[0])
    return rows, f"barcodes are matched without prefix and suffix ({barcodes[first]} is {positions.index[rows[first]]})"


def _bare(name: str) -> str:
    """The sequence, without what programs put around it: ``S1_ACGT...-1`` becomes ``ACGT...``."""
    found = re.search(r"(?<![A-Za-z])[ACGTN]{12,}(?![A-Za-z])", name)
    return found[0] if found else name


def _parquet(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except ImportError:
        raise ClearError(f"{path}: parquet is read by pyarrow: pip install pyarrow.") from None
    except (OSError, ValueError, TypeError) as error:
        raise ClearError(
            f"{path} is no whole parquet file ({' '.join(str(error).split())}); fetch it again."
        ) from error
    if "barcode" not in table:
        table = table.rename_axis("barcode").reset_index()
    return _renamed(table)


def _text(path: Path) -> pd.DataFrame:
    try:
        with open_plain(path) as handle:
            first = handle.readline().decode("utf-8-sig")
        separator = max(",\t;", key=first.count)
        cells = [cell.strip().strip('"') for cell in first.rstrip("\r\n").split(separator)]
        # a barcode is no number, a coordinate is one
        header = not any(re.fullmatch(r"[-+.\deE]+", cell) for cell in cells)
        with open_plain(path) as handle:
            table = pd.read_csv(
                handle,
                sep=separator,
                header=0 if header else None,
                encoding="utf-8-sig",
                dtype={0: str} if not header else {"barcode": str},
                skip_blank_lines=True,
            )
    except (OSError, EOFError, ValueError) as error:  # UnicodeDecodeError and pandas' own are ValueErrors
        raise ClearError(f"{path} is no table of spot positions ({' '.join(str(error).split())}).") from error
    if header:
        if not any(cell.lower() == "barcode" for cell in cells):  # R and pandas leave the index unnamed, or out
            table = table if isinstance(table.index, pd.RangeIndex) else table.reset_index()
            table = table.rename(columns={table.columns[0]: "barcode"})
        return _renamed(table)
    if len(table.columns) < len(_COLUMNS):
        raise ClearError(
            f"{path} has {len(table.columns)} columns and no header; expected {', '.join(_COLUMNS)}, in this order."
        )
    extra = [f"column_{k + 1}" for k in range(len(_COLUMNS), len(table.columns))]
    return table.set_axis(_COLUMNS + extra, axis=1)


def _renamed(table: pd.DataFrame) -> pd.DataFrame:
    """The known columns under the names of Space Ranger, without the row numbers that pandas writes."""
    names = [str(name).strip() for name in table.columns]
    lower = [name.lower() for name in names]
    renamed = [low if low in _COLUMNS else name for name, low in zip(names, lower, strict=True)]
    for old, new in _ALSO.items():
        if old in lower and new not in renamed:
            renamed[lower.index(old)] = new
    keep = [k for k, name in enumerate(renamed) if name and not name.startswith("Unnamed:")]
    table = table.set_axis(renamed, axis=1).iloc[:, keep]
    return table.loc[:, ~table.columns.duplicated()]
