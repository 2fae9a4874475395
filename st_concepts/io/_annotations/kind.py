"""Which program wrote an annotation, by its content."""

from __future__ import annotations

import re
from pathlib import Path

from st_concepts.io._readers.peek import zarr_kind

from .drawn_text import encoding_of, read_head
from .napari import is_napari
from .xenium import is_selection

DRAWING_KINDS = ("barcodes", "geojson", "napari", "spatialdata", "xenium")
# first bytes of files that hold drawings or tables in a form that is not read
_OTHERS = (
    (b"Iout", "an ImageJ ROI"),
    (b"\xac\xed\x00\x05", "a .qpdata file of QuPath"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"SQLite format 3", "a GeoPackage"),
    (b"PAR1", "a Parquet file"),
    (b"\x00\x00\x27\x0a", "a shapefile"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"II+\x00", "a TIFF image"),
    (b"%PDF", "a PDF"),
    (b"version https://git-lfs", "a pointer of Git LFS (git lfs pull fetches the file itself)"),
)
# not "<NA>", which a table may begin with
_MARKUP = re.compile(r"<(?!na>)[?!a-z]", re.IGNORECASE)
_READ = (
    "a table of barcode and label (CSV), GeoJSON (QuPath: File > Export objects as GeoJSON; drawings of ImageJ can be "
    "opened in QuPath), a napari shapes layer (CSV), selections of Xenium Explorer (CSV), SpatialData (.zarr)"
)


def drawing_kind(path: Path) -> str:
    """One of `DRAWING_KINDS`; what is none of the others is taken for a table of barcodes."""
    if path.is_dir():
        if zarr_kind(path) == "spatialdata":
            return "spatialdata"
        return _folder_kind(path)
    name = path.name.lower().removesuffix(".gz")
    head = read_head(path)
    for magic, what in _OTHERS:
        if head.startswith(magic):
            raise ValueError(_refusal(path, what))
    if head.startswith(b"PK\x03\x04"):
        raise ValueError(_refusal(path, "an Excel workbook" if name.endswith((".xlsx", ".xlsm")) else "a zip file"))
    text = head.decode(encoding_of(head), "replace").lstrip("\ufeff \r\n\t\x1e")
    if _MARKUP.match(text):
        raise ValueError(_refusal(path, "XML" if not text.lower().startswith(("<!doctype html", "<html")) else "HTML"))
    if name.endswith((".geojson", ".json", ".geojsonl", ".ndjson")) or text.startswith(("{", "[")):
        return "geojson"
    if is_selection(text):
        return "xenium"
    first = text.split("\n", 1)[0].replace('"', "").replace(";", ",").replace("\t", ",")
    return "napari" if is_napari(first.split(",")) else "barcodes"


def drawing_files(path: Path) -> list[Path]:
    """The tables of a folder, without hidden ones."""
    files = sorted(f for f in path.iterdir() if f.name.lower().endswith((".csv", ".csv.gz")) and f.name[0] != ".")
    if not files:
        raise ValueError(
            f"{path} is a folder without CSV files of napari or Xenium Explorer, and no SpatialData store; name one "
            "file."
        )
    return files


def _folder_kind(path: Path) -> str:
    kinds = {drawing_kind(file): file.name for file in reversed(drawing_files(path))}
    if len(kinds) > 1 or not set(kinds) <= {"napari", "xenium"}:
        found = ", ".join(f"{name} ({kind})" for kind, name in kinds.items())
        raise ValueError(
            f"{path}: a folder may hold shapes of napari or selections of Xenium Explorer, a file each; found: {found}."
            " Name one file."
        )
    return next(iter(kinds))


def _refusal(path: Path, what: str) -> str:
    return f"{path} is {what}, which is not read as an annotation. Read are: {_READ}."
