"""Tables whose text cannot become a formula in a spreadsheet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

# what a spreadsheet takes for the start of a formula, past blanks and signs that nobody sees; wide forms too
_BLANK = r"[\s\x00-\x1f\u00ad\u200b-\u200f\u2060\ufeff]*"
_FORMULA = re.compile(rf"'*(?:{_BLANK}[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])")


def safe_text(value: Any) -> Any:
    """Text that a spreadsheet would read as a formula with an apostrophe before it; all else as it is.

    A spreadsheet evaluates what begins with ``=``, ``+``, ``-`` or ``@``, also behind a tab or a line break. Text that
    begins with apostrophes and goes on like this gets one more, so that `raw_text` always gives the name back.

    Examples
    --------
    >>> safe_text("=1+1"), safe_text("'=1+1"), safe_text("L2/3"), safe_text(-0.5)
    ("'=1+1", "''=1+1", 'L2/3', -0.5)
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def raw_text(value: Any) -> Any:
    """What `safe_text` was given.

    Examples
    --------
    >>> raw_text("'=1+1"), raw_text("'5 end")
    ('=1+1', "'5 end")
    """
    return value[1:] if isinstance(value, str) and value.startswith("'") and _FORMULA.match(value) else value


def spreadsheet_safe(frame: pd.DataFrame) -> pd.DataFrame:
    r"""A copy to be written as CSV: no text in it, be it a name of a row or column, can become a formula.

    Numbers stay numbers, negative ones too.

    Examples
    --------
    >>> spreadsheet_safe(pd.DataFrame({"names": ["=A1", "Mbp"], "scores": [-1.0, 2.0]})).to_csv(index=False)
    "names,scores\n'=A1,-1.0\nMbp,2.0\n"
    """
    frame = frame.copy()
    for at, kind in enumerate(frame.dtypes):
        if not (pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_datetime64_any_dtype(kind)):
            values = frame.iloc[:, at].astype(object).map(safe_text)
            frame.isetitem(at, values)
    frame.columns = frame.columns.map(safe_text)
    if not pd.api.types.is_numeric_dtype(frame.index.dtype):
        frame.index = frame.index.map(safe_text)
    return frame


def write_safe_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write the columns of a table as CSV in UTF-8, names whole with their line breaks, floats to six digits."""
    safe = spreadsheet_safe(frame)
    text = safe.select_dtypes(exclude="number")
    # a lone carriage return is put in quotes only where lines end in one, as RFC 4180 has it
    returns = any("\r" in str(v) for v in safe.columns) or any(
        text.iloc[:, j].astype(str).str.contains("\r", regex=False).any() for j in range(text.shape[1])
    )
    safe.to_csv(path, index=False, float_format="%.6g", encoding="utf-8", lineterminator="\r\n" if returns else "\n")
