"""What to say of a path that is of no known kind: what it is, what is missing, and where to look."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

from st_concepts._files.content import GZIP_MAGIC, HDF5_MAGIC, ClearError

from .peek import first_bytes
from .tenx_files import count_files, in_xenium, is_count_matrix, is_matrix_folder, position_files

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


def refuse_file(path: Path) -> None:
    """Say of a file that no reader takes what is wrong with it, where that can be told."""
    head = first_bytes(path)
    if is_count_matrix(path):
        if in_xenium(path):
            raise ClearError(f"{path} is part of a Xenium output; name the folder, {path.parent}.")
        raise ClearError(
            f"{path} is a 10x count matrix without coordinates; name the output folder that holds it (with spatial/), "
            "or put tissue_positions.csv beside it."
        )
    if head.startswith(HDF5_MAGIC):
        _refuse_hdf5(path)
    if path.suffix == ".h5ad":
        raise ClearError(f"{path} is not an .h5ad file (not HDF5): it is damaged, or another file renamed.")
    if head.startswith(GZIP_MAGIC):
        try:
            with gzip.open(path) as handle:
                handle.read(len(head))
        except (OSError, EOFError, zlib.error) as error:
            raise ClearError(f"{path}: the gzip file is truncated or corrupt ({error}); fetch it again.") from None


def _refuse_hdf5(path: Path) -> None:
    import h5py

    try:
        with h5py.File(path, "r") as handle:
            groups = {name for name, _ in handle.items()}
    except (OSError, KeyError, RuntimeError) as error:
        raise ClearError(f"{path} cannot be opened as HDF5, it is damaged or truncated: {error}") from None
    if (other := next((text for marks, text in _HDF5 if marks <= groups), None)) is not None:
        raise ClearError(f"{path} {other}")
    raise ClearError(f"{path} is an HDF5 file but holds no AnnData; it has {', '.join(sorted(groups)) or 'nothing'}.")


def why_unknown(path: Path, is_known: Callable[[Path], bool]) -> str:
    """What is missing in a folder, to follow ``of no kind that can be read``; nothing for a file."""
    if not path.is_dir():
        return ""
    packed = [p.name for p in sorted(path.iterdir()) if p.name.lower().endswith(_ARCHIVES)]
    unpack = f"; unpack {_some(packed)} there first" if packed else ""
    sections = [p.name for p in sorted(path.iterdir()) if p.is_dir() and _is_section(p, is_known)]
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


def _is_section(path: Path, is_known: Callable[[Path], bool]) -> bool:
    try:
        return is_known(path) or ((path / "outs").is_dir() and is_known(path / "outs"))
    except OSError:  # a folder that may not be read
        return False


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
