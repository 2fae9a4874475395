"""Delimited text as people save it: any common delimiter, encoding and line end; quoted fields with line breaks."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from st_concepts._files.content import GZIP_MAGIC

from .drawn_text import MARKS

_ZIP = b"PK\x03\x04"
_DELIMITERS = "\t;,"
_SAMPLE = 30  # lines that tell the delimiter


@dataclass(frozen=True)
class Sheet:
    """Fields of a table, stripped of blanks around them.

    Attributes
    ----------
    header
        First line.
    rows
        The lines below, as long as the header each; lines without any text are left out.
    remarks
        What a person should know about how it was read.
    """

    header: list[str]
    rows: list[list[str]]
    remarks: tuple[str, ...] = ()


def read_sheet(path: Path) -> Sheet:
    """Read a table of at least two columns and two lines.

    Comma, tab and semicolon are told apart by the lines themselves, or by the ``sep=`` of a spreadsheet. Comments
    (``#``) above the header are left out. A header that lacks the name of its first column, as R writes it, gets an
    empty one; columns without name and content at the end are left out.
    """
    text, remarks = _text(path)
    first, _, rest = text.lstrip().partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) <= 5:
        delimiter, text = (first.strip()[4:] or "\t"), rest
    else:
        delimiter = ""
    text = _without_comments(text)
    if not text.strip():
        raise ValueError(f"{path}: the file is empty.")
    records = _records(path, text, delimiter or _delimiter(text))
    if len(records) < 2:
        raise ValueError(f"{path}: a header and nothing below it.")
    numbers, fields = [n for n, _ in records], [f for _, f in records]
    if len(fields[0]) + 1 == len(fields[1]) and len({len(f) for f in fields[1:]}) == 1 and fields[1][-1]:
        fields[0] = ["", *fields[0]]
    width = _width(fields)
    if width < 2:
        raise ValueError(f"{path}: one column only. Expected barcode and label, separated by comma, tab or semicolon.")
    for number, row in zip(numbers, fields, strict=True):
        if len(row) < width or any(row[width:]):
            raise ValueError(
                f"{path}, line {number}: {len(row)} columns, but the header names {width}. A field that holds the "
                "delimiter must stand in quotation marks."
            )
    return Sheet(fields[0][:width], [row[:width] for row in fields[1:]], tuple(remarks))


def _text(path: Path) -> tuple[str, list[str]]:
    data = path.read_bytes()
    if data.startswith(GZIP_MAGIC):
        try:
            data = gzip.decompress(data)
        except (EOFError, zlib.error, OSError) as error:
            raise ValueError(f"{path}: the gzip file is truncated or corrupt ({error}); fetch it again.") from None
    if data.startswith(_ZIP):
        raise ValueError(f"{path}: this is a workbook or an archive, not text; save the sheet as CSV.")
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    remarks = []
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        # old spreadsheets; a file with NUL in it is no text at all
        if encoding != "utf-8" or b"\0" in data:
            raise ValueError(f"{path}: not a text table ({error}).") from None
        text = data.decode("cp1252", "replace")
        remarks.append("the file is not UTF-8 and was read as Windows-1252; check the letters with accents")
    return text.replace("\r\n", "\n").replace("\r", "\n"), remarks


def _without_comments(text: str) -> str:
    """The text from its header on; a last comment that is the header itself loses its mark."""
    comments = []
    while text.lstrip("\n").startswith("#"):
        comment, _, text = text.lstrip("\n").partition("\n")
        comments.append(comment.lstrip("# "))
    if comments and text.strip():
        line = text.lstrip("\n").split("\n", 1)[0]
        delimiter = max(_DELIMITERS, key=line.count)
        if line.count(delimiter) and comments[-1].count(delimiter) == line.count(delimiter):
            return f"{comments[-1]}\n{text}"
    return text


def _delimiter(text: str) -> str:
    """The delimiter for which the first lines have most often the same number of fields, of those the most frequent."""
    best, found = (0.0, 0), ","
    for delimiter in _DELIMITERS:
        sample = io.StringIO("".join(line + "\n" for line in text.split("\n", _SAMPLE)[:_SAMPLE]), newline="")
        lengths = []
        try:
            lengths = [len(row) for row in csv.reader(sample, delimiter=delimiter) if row]
        except csv.Error:
            continue  # said when all is read
        width, n = Counter(lengths).most_common(1)[0] if lengths else (0, 0)
        score = (n / len(lengths), width) if width > 1 else (0.0, 0)
        if score > best:
            best, found = score, delimiter
    return found


def _records(path: Path, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Line number and fields of each line with text in it."""
    try:
        return _parsed(text, delimiter, strict=True)
    except csv.Error as error:
        said = str(error)
    if "field larger" in said:
        raise ValueError(
            f"{path}: a field of more than {csv.field_size_limit()} characters. This is no table of labels, or a "
            "quotation mark is not closed."
        )
    if "unexpected end" in said:
        raise ValueError(f"{path}: a quotation mark is not closed; everything after it would be one field.")
    try:
        return _parsed(text, delimiter, strict=False)
    except csv.Error as error:
        raise ValueError(f"{path}: not a table ({error}).") from None


def _parsed(text: str, delimiter: str, *, strict: bool) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict)
    out = []
    for row in reader:
        fields = [field.strip() for field in row]
        if any(fields):
            out.append((reader.line_num, fields))
    return out


def _width(fields: list[list[str]]) -> int:
    """Columns with a name or content."""
    width = len(fields[0])
    while width > 1 and not fields[0][width - 1] and not any(len(row) >= width and row[width - 1] for row in fields):
        width -= 1
    return width
