"""What to say of a path that is of no known kind: what is missing, and where to look."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .tenx_files import count_files, is_matrix_folder, position_files

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip", ".7z", ".rar", ".tar.bz2", ".tar.xz")
_SHOWN = 4  # names in a message
# groups of an HDF5 file -> what wrote it, and what to do
_HDF5 = (
    ({"mod"}, "is MuData (.h5mu); write the modality with the counts: mudata.read(path).mod['rna'].write_h5ad(...)."),
    (
        {"row_attrs", "col_attrs"},
        "is a loom file; write it as .h5ad, with coordinates: anndata.io.read_loom(path).write_h5ad(...).",
    ),
    ({"assays", "cell.names"}, "is a Seurat file (.h5seurat); write it as .h5ad (SeuratDisk::Convert, or anndataR)."),
    ({"barcode_info"}, "is a list of molecules (molecule_info.h5); name filtered_feature_bc_matrix.h5 or its folder."),
    ({"feature_slices"}, "is a slice of Visium HD (feature_slice.h5); name the output folder that holds it."),
)


def other_hdf5(groups: set[str]) -> str | None:
    """What an HDF5 file without AnnData is, to follow its name; `None` if nobody knows."""
    return next((text for marks, text in _HDF5 if marks <= groups), None)


def why_unknown(path: Path, kind_of: Callable[[Path], str | None]) -> str:
    """What is missing in a folder, to follow ``of no kind that can be read``; nothing for a file.

    Parameters
    ----------
    path
        A folder or file of no kind.
    kind_of
        Tells the kind of a folder.
    """
    if not path.is_dir():
        return ""
    packed = [p.name for p in sorted(path.iterdir()) if p.name.lower().endswith(_ARCHIVES)]
    unpack = f"; unpack {_some(packed)} there first" if packed else ""
    sections = [p.name for p in sorted(path.iterdir()) if p.is_dir() and _is_section(p, kind_of)]
    if sections:
        return f": it holds {_some(sections)}; name one of these"
    counts = [c.path.name for c in count_files(path)] or (["matrix.mtx"] if is_matrix_folder(path) else [])
    if counts:
        return f": it has a count matrix, {counts[0]}, but no tissue_positions*.csv, here or in spatial/{unpack}"
    if positions := position_files(path):
        above = f", {path.parent}" if count_files(path.parent) else ""
        return f": it has {positions[0].name} but no count matrix{unpack}; name the folder that has both{above}"
    if (path / "segmented_outputs").is_dir():
        return ": it has cells of Visium HD (segmented_outputs), which spatialdata-io reads: write them as SpatialData"
    if not any(path.iterdir()):
        return ": the folder is empty"
    return unpack


def _is_section(path: Path, kind_of: Callable[[Path], str | None]) -> bool:
    try:
        return kind_of(path) is not None or kind_of(path / "outs") is not None
    except OSError:  # a folder that may not be read
        return False


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
