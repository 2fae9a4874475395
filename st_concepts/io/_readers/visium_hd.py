"""Visium HD: one bin size of it, from the whole output, from some of its bin folders, or from one alone."""

from __future__ import annotations

import warnings
from pathlib import Path

from anndata import AnnData

from st_concepts._files.content import ClearError
from st_concepts._slots import safe_labels

from .base import READERS, Reader
from .others import logger
from .tenx_files import BIN, bin_folders, find_parts, holds_bins, in_xenium, named_counts, size_of_bins
from .visium import place, read_spots

_DEFAULT_BIN = 8  # what the maker recommends to start with


def read_visium_hd(
    path: Path,
    *,
    bin_size: int | None = None,
    counts_file: str | None = None,
    library_id: str | None = None,
    genome: str | None = None,
    load_images: bool = True,
) -> AnnData:
    """One bin size of Visium HD; bins in tissue, full-resolution pixels.

    ``path`` is the output folder; a folder with some folders of bins; one of these; or the count matrix in it. Bins are
    of 8 micrometres where these are there, else the smallest. The other options are those of `read_visium`.
    """
    folder, counts, size = _bin(path, bin_size)
    parts = find_parts(folder, counts if counts is not None else counts_file)
    adata, about, remarks = read_spots(parts, genome=genome)
    about.pop("library_ids", None)  # the same for all bin sizes
    library = library_id or _name(folder, size)
    remarks += place(adata, parts, safe_labels([library])[0], about, load_images=load_images)
    for remark in remarks:
        warnings.warn(f"{folder}: {remark}.", UserWarning, stacklevel=3)
    return adata


def _bin(path: Path, bin_size: int | None) -> tuple[Path, Path | None, int]:
    """The folder of bins, the count matrix where that was named, and the size of the bins."""
    root, counts = named_counts(path)
    own = size_of_bins(root)
    if own is not None:
        if bin_size not in (None, own):
            raise ClearError(f"{root} holds bins of {own} um, but bin_size={bin_size} was asked for.")
        return root, counts, own
    folders = bin_folders(path)
    if not folders:
        raise ClearError(
            f"{path}: no folder of bins (square_008um, with filtered_feature_bc_matrix.h5 and spatial/) here or in "
            "binned_outputs; unpack binned_outputs.tar.gz there."
        )
    sizes = ", ".join(map(str, sorted(folders)))
    if bin_size is None:
        bin_size = _DEFAULT_BIN if _DEFAULT_BIN in folders else min(folders)
        logger.info("%s: bins of %d um (there are: %s)", path, bin_size, sizes)
    if bin_size not in folders:
        raise ClearError(f"{path} has no bins of {bin_size} um; bin_size can be {sizes}.")
    return folders[bin_size], None, bin_size


def _name(folder: Path, size: int) -> str:
    """``<data set>_square_008um``; the data set is named by the prefix of the output's files, else by its folder."""
    folder = folder.resolve()
    if not BIN.search(folder.name):
        return folder.name
    above = folder.parent
    whole = above.parent if above.name == "binned_outputs" else above
    slices = sorted(whole.glob("*feature_slice.h5"))
    prefix = slices[0].name.removesuffix("feature_slice.h5").rstrip("_") if slices else ""
    return f"{prefix or (whole.parent if whole.name == 'outs' else whole).name}_square_{size:03d}um"


READERS.register(
    Reader(
        "visium_hd",
        "Visium HD, Space Ranger output",
        "a folder with binned_outputs/square_*um",
        detect=lambda path: holds_bins(path) and not in_xenium(path),
        read=read_visium_hd,
        options=("bin_size", "load_images"),
        short="Visium HD",
        clear_errors=False,
        order=35,
    )
)
