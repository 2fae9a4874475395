"""Which file is which in what Space Ranger wrote: whole output folders, and the flat, prefixed, gzipped ones of GEO."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from st_concepts._files.content import HDF5_MAGIC, ClearError, open_plain

from .peek import first_bytes, first_plain_bytes, hdf5_names

_SEPARATORS = "_. -"
_MATRIX = r"(?P<kind>filtered|raw)_(?:feature|gene)_bc_matri(?:x|ces)(?:_h5)?"
_FLAT_MATRIX = r"(?:(?P<kind>filtered|raw)_(?:feature|gene)_bc_)?matrix"
_IMAGE = r"\.(?:png|jpe?g|tiff?)"
# role -> what the name holds, and how it ends
_SPATIAL = {
    "positions": (r"tissue_positions(?:_list)?", r"\.(?:csv|tsv|txt|parquet)"),
    "scalefactors": (r"scalefactors(?:_json)?", r"\.json"),
    "hires": (r"tissue_hires_image", _IMAGE),
    "lowres": (r"tissue_lowres_image", _IMAGE),
}
BIN = re.compile(r"square_0*(\d+)um")


class Counts(NamedTuple):
    """A count matrix: an HDF5 file, a folder of matrix, barcodes and features, or a matrix that has these beside it."""

    path: Path
    sample: str  # what its name holds besides, "GSM1_S1"; empty in an output folder
    raw: bool


class Parts(NamedTuple):
    """The files of one section; `None` for those that are not there."""

    root: Path
    counts: Counts
    positions: Path
    scalefactors: Path | None
    hires: Path | None
    lowres: Path | None


def sample_of(name: str, what: str, ends: str) -> tuple[str, str] | None:
    r"""What a file name holds besides ``what`` (the sample), and the group ``kind`` of it; `None` for another file.

    Examples
    --------
    >>> sample_of("GSM1_S1_tissue_positions_list.csv.gz", r"tissue_positions(?:_list)?", r"\.csv")
    ('GSM1_S1', '')
    >>> sample_of("tissue_hires_image.png", "tissue_positions", r"\.csv") is None
    True
    """
    before, after = rf"(?P<before>|.*?[{_SEPARATORS}])", rf"(?P<after>|[{_SEPARATORS}].*?)"
    match = re.fullmatch(rf"{before}(?:{what}){after}(?:{ends})(?:\.gz)?", name, re.I)
    if match is None:
        return None
    found = match.groupdict()
    parts = [found[side].strip(_SEPARATORS) for side in ("before", "after")]
    sample = "_".join(part for part in parts if part)
    return re.sub(rf"(?:^|[{_SEPARATORS}])spatial$", "", sample), (found.get("kind") or "").lower()


def is_matrix_folder(path: Path) -> bool:
    """Whether a folder holds ``matrix.mtx`` as the pipelines write it."""
    return any((path / name).is_file() for name in ("matrix.mtx", "matrix.mtx.gz"))


def count_files(root: Path) -> list[Counts]:
    """The count matrices in a folder, the one to prefer first: filtered before raw, HDF5 before text."""
    found: list[tuple[int, Counts]] = []
    for path in _visible(root):
        if path.is_dir():
            named, inner = sample_of(path.name, _MATRIX, ""), _matrix_folder(path)
            if named is not None and inner is not None:
                found.append((1, Counts(inner, named[0], named[1] == "raw")))
        elif (named := sample_of(path.name, _MATRIX, r"\.h5")) is not None:
            found.append((0, Counts(path, named[0], named[1] == "raw")))
        elif (named := sample_of(path.name, _FLAT_MATRIX, r"\.mtx")) is not None:
            found.append((2, Counts(path, named[0], named[1] == "raw")))
    return [counts for _, counts in sorted(found, key=lambda f: (f[1].raw, f[0], f[1].path.name))]


def position_files(root: Path) -> list[Path]:
    """The tables of spot positions that belong to a folder."""
    return [path for path, _ in _spatial_files(root, "positions")]


def named_counts(path: Path) -> tuple[Path, Path | None]:
    """The folder of a section and its count matrix, where that was named in place of the folder."""
    if path.is_dir():
        if is_matrix_folder(path) and not position_files(path) and position_files(path.parent):
            return path.parent, path
        return path, None
    folder = path.parent
    if is_matrix_folder(folder) and not position_files(folder) and position_files(folder.parent):
        return folder.parent, folder
    return folder, path


def bin_folders(path: Path) -> dict[int, Path]:
    """Folders of bins in a folder or its ``binned_outputs``, by size in micrometres."""
    found: dict[int, Path] = {}
    for folder in (path / "binned_outputs", path):
        for inner in sorted(folder.iterdir()) if folder.is_dir() else ():
            named = BIN.search(inner.name)
            if named and inner.is_dir() and count_files(inner):
                found.setdefault(int(named[1]), inner)
    return found


def size_of_bins(path: Path) -> int | None:
    """The size of the bins that a folder holds itself, by its name or its scale factors; `None` for another folder."""
    if not path.is_dir() or not count_files(path) or not position_files(path):
        return None
    if named := BIN.search(path.name):
        return int(named[1])
    factors = path / "spatial" / "scalefactors_json.json"
    try:
        with open_plain(factors) as handle:
            size = json.loads(handle.read())["bin_size_um"]
        return int(size) or None
    except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError):
        return None


def holds_bins(path: Path) -> bool:
    """Whether it is a folder with folders of bins (Visium HD) or for them, one of these, or the count matrix in it."""
    if path.is_dir():
        return (path / "binned_outputs").is_dir() or bool(size_of_bins(path) or bin_folders(path))
    return is_count_matrix(path) and size_of_bins(named_counts(path)[0]) is not None


def in_xenium(path: Path) -> bool:
    """Whether it is a Xenium output, or a file in one."""
    return ((path if path.is_dir() else path.parent) / "experiment.xenium").is_file()


def is_count_matrix(path: Path) -> bool:
    """Whether a file holds counts as the pipelines of 10x write them, in HDF5 or as a matrix in text."""
    if first_bytes(path).startswith(HDF5_MAGIC):
        return bool(hdf5_names(path, holding="barcodes"))
    return path.suffix != ".h5ad" and first_plain_bytes(path).startswith(b"%%MatrixMarket")


def find_parts(root: Path, counts_file: str | Path | None = None) -> Parts:
    """The files of the section in a folder, an output folder or any that has them flat in it.

    ``counts_file`` is the count matrix, where there are several; relative to ``root``.
    """
    counts = _choose_counts(root, counts_file)
    files = {role: _choose(_spatial_files(root, role), counts.sample) for role in _SPATIAL}
    positions = files["positions"]
    if positions is None:
        several = [path.name for path in position_files(root)]
        raise ClearError(
            f"{root}: none of {', '.join(several)} is named after {counts.path.name}; give each section a folder."
            if several
            else f"{root}: no spatial/tissue_positions*.csv; it is part of the Space Ranger output, copy it there."
        )
    return Parts(root, counts, positions, files["scalefactors"], files["hires"], files["lowres"])


def _choose_counts(root: Path, counts_file: str | Path | None) -> Counts:
    found = count_files(root) if root.is_dir() else []
    if counts_file is not None:
        path = root / counts_file
        if not path.exists():
            raise ClearError(f"{path} does not exist; counts_file= names a file in {root}.")
        inner = (_matrix_folder(path) or path) if path.is_dir() else path
        if inner.is_file() and not re.search(r"\.(h5|mtx|mtx\.gz)$", inner.name, re.I):
            raise ClearError(f"{path} is no filtered_feature_bc_matrix.h5 and no other count matrix of Space Ranger.")
        known = next((counts for counts in found if counts.path in (path, inner)), None)
        return known or Counts(inner, path.stem, path.name.lower().startswith("raw"))
    if not found:
        raise ClearError(f"{root}: no filtered_feature_bc_matrix.h5, and no other count matrix of Space Ranger.")
    samples = sorted({counts.sample for counts in found})
    if len(samples) > 1:
        names = ", ".join(counts.path.name for counts in found)
        raise ClearError(f"{root}: several count files, {names}; name one of them in place of the folder.")
    return found[0]


def _choose(found: list[tuple[Path, str]], sample: str) -> Path | None:
    """The file of a sample, else the one without a sample, else the only one."""
    for wanted in (sample, ""):
        for path, own in found:
            if own == wanted:
                return path
    return found[0][0] if len(found) == 1 else None


def _spatial_files(root: Path, role: str) -> list[tuple[Path, str]]:
    """Files of a role and their samples: in ``spatial/``, in folders such as ``GSM1_spatial``, beside the counts."""
    what, ends = _SPATIAL[role]
    found = []
    for folder, of_folder in _spatial_folders(root):
        for path in _visible(folder):
            named = sample_of(path.name, what, ends)
            if named is not None and path.is_file():
                found.append((path, named[0] or of_folder))
    return found


def _spatial_folders(root: Path) -> Iterator[tuple[Path, str]]:
    for path in _visible(root):
        named = sample_of(path.name, "spatial", "") if path.is_dir() else None
        if named is not None:
            yield path, named[0]
            if (path / "spatial").is_dir():  # an archive unpacked into a folder of its own name
                yield path / "spatial", named[0]
    yield root, ""


def _matrix_folder(path: Path) -> Path | None:
    """The folder itself, or the one in it that is named after the genome (Cell Ranger 2)."""
    return next((p for p in (path, *_visible(path)) if p.is_dir() and is_matrix_folder(p)), None)


def _visible(folder: Path) -> list[Path]:
    """Sorted; without hidden ones, such as the ``._name`` that macOS leaves in archives."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
