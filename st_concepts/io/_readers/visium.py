"""Visium: what Space Ranger wrote, whole or as far as it was kept, as AnnData in the layout of scanpy and squidpy."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._files.content import ClearError, check_content, open_plain
from st_concepts._slots import KEYS, safe_labels

from .base import READERS, Reader
from .tenx_counts import read_counts
from .tenx_files import (
    Parts,
    count_files,
    find_parts,
    holds_bins,
    in_xenium,
    is_count_matrix,
    named_counts,
    position_files,
)
from .tenx_positions import X, Y, read_positions, rows_of

# pixels, longest side of an image that is kept: that of Visium; those of Visium HD are three times that
_LARGEST = 2000


def is_visium(path: Path) -> bool:
    """Whether it is a folder with counts and positions of spots, or the count matrix in one."""
    if in_xenium(path) or holds_bins(path) or not (path.is_dir() or is_count_matrix(path)):
        return False
    root, counts = named_counts(path)
    return bool(position_files(root)) and (counts is not None or bool(count_files(root)))


def read_visium(
    path: Path,
    *,
    counts_file: str | None = None,
    library_id: str | None = None,
    genome: str | None = None,
    load_images: bool = True,
) -> AnnData:
    """A section of Visium; spots in tissue, full-resolution pixels.

    ``path`` is the output folder, a folder with its files (prefixed and gzipped as in GEO), or the count matrix in one;
    ``counts_file`` the matrix, where there are several; ``library_id`` the name of the section, by default as the
    matrix says, else the prefix of the files, else the folder. What is missing or stands in for another is warned of.
    """
    root, counts = named_counts(path)
    parts = find_parts(root, counts if counts is not None else counts_file)
    adata, about, remarks = read_spots(parts, genome=genome)
    library = library_id or about.pop("library_ids", "") or section_name(parts)
    more = place(adata, parts, safe_labels([library])[0], about, load_images=load_images)
    for remark in remarks + more:
        warnings.warn(f"{root}: {remark}.", UserWarning, stacklevel=3)
    return adata


def section_name(parts: Parts) -> str:
    """The prefix of the files where they carry one, else the name of the folder."""
    sample = parts.counts.sample
    if sample and sample in str(parts.positions.relative_to(parts.root)):
        return sample
    root = parts.root.resolve()
    return (root.parent if root.name == "outs" else root).name or "section"


def read_spots(parts: Parts, *, genome: str | None = None) -> tuple[AnnData, dict[str, str], list[str]]:
    """Counts of the spots with their positions, what the count file says of itself, and remarks."""
    adata, about, remarks = read_counts(parts.counts.path, genome=genome)
    positions = read_positions(parts.positions)
    rows, remark = rows_of(adata.obs_names, positions)
    remarks += [remark] if remark else []
    if parts.counts.raw:
        adata, rows, remark = _in_tissue(adata, rows, positions, parts)
        remarks.append(remark)
    lost = int((rows < 0).sum())
    if lost or adata.n_obs == 0:
        raise ClearError(
            f"{parts.root}: {lost} of {adata.n_obs} barcodes of {parts.counts.path.name} are not in "
            f"{parts.positions.relative_to(parts.root)}; the files belong to different sections."
        )
    table = positions.iloc[rows].set_axis(adata.obs_names, axis=0)
    adata.obsm[KEYS.SPATIAL] = table[[X, Y]].to_numpy(dtype=np.float64)
    own = table.drop(columns=[X, Y]).rename(columns=lambda name: str(name).replace("/", "_"))
    adata.obs = adata.obs.join(own)
    return adata, about, remarks


def place(adata: AnnData, parts: Parts, library: str, about: dict[str, str], *, load_images: bool) -> list[str]:
    """Write ``obs["section"]`` and the entry of ``uns["spatial"]``; give back what is missing."""
    remarks = []
    factors = _scale_factors(parts.scalefactors) if parts.scalefactors is not None else {}
    if not factors:
        remarks.append("no scale factors (spatial/scalefactors_json.json), so no image can be drawn under the spots")
    images: dict[str, np.ndarray] = {}
    if load_images:
        have = {name: path for name in ("hires", "lowres") if (path := getattr(parts, name)) is not None}
        absent = [f"tissue_{name}_image.png" for name in ("hires", "lowres") if name not in have]
        if not have:
            remarks.append("no histology image, the section is read without it")
        elif absent:
            remarks.append(f"{absent[0]} is missing, the section is read without it")
        for name, path in have.items():
            if f"tissue_{name}_scalef" not in factors:
                if factors:
                    remarks.append(f"no tissue_{name}_scalef among the scale factors, so {path.name} is left out")
                continue
            images[name], scale = read_histology(path)
            factors[f"tissue_{name}_scalef"] *= scale
    adata.obs[KEYS.BATCH] = pd.Categorical([library] * adata.n_obs)
    adata.uns[KEYS.SPATIAL] = {library: {"metadata": about, "images": images, "scalefactors": factors}}
    return remarks


def read_histology(path: Path) -> tuple[np.ndarray, float]:
    """An image as uint8 of shape (height, width, 3), and its size relative to the file: 1, but for huge ones."""
    from PIL import Image

    from .image import reduce_image

    try:
        check_content(path)
    except ClearError as error:
        raise ClearError(f"{error} Or read the section without images: load_images=False (--no-image).") from None
    try:
        with warnings.catch_warnings(), open_plain(path) as handle:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(handle) as image:
                if image.mode.startswith("I"):  # 16 bits
                    pixels = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                else:
                    pixels = np.asarray(image.convert("RGB"))
    except (Image.DecompressionBombError, OSError, EOFError, SyntaxError, ValueError) as error:
        raise ClearError(
            f"{path} is no readable image, or truncated ({error}); fetch it again, or read the section without images: "
            "load_images=False (--no-image)."
        ) from None
    longest = max(pixels.shape[:2])
    reduced = reduce_image(pixels, {"own": min(longest, _LARGEST)})[1]["own"]
    return reduced, max(reduced.shape[:2]) / longest


def _in_tissue(
    adata: AnnData, rows: np.ndarray, positions: pd.DataFrame, parts: Parts
) -> tuple[AnnData, np.ndarray, str]:
    """Of all barcodes of a raw matrix those under tissue."""
    if "in_tissue" not in positions:
        raise ClearError(
            f"{parts.positions}: no column in_tissue, and {parts.counts.path.name} holds all spots of the slide; copy "
            "filtered_feature_bc_matrix.h5 there."
        )
    keep = (rows >= 0) & (positions["in_tissue"].to_numpy()[rows] == 1)
    if not keep.any():
        raise ClearError(
            f"{parts.root}: no barcode of {parts.counts.path.name} is in tissue by {parts.positions.name}; the files "
            "belong to different sections."
        )
    name, n = parts.counts.path.name, int(keep.sum())
    remark = f"no filtered counts; of {adata.n_obs} barcodes of {name} the {n} in tissue are kept"
    return adata[keep].copy(), rows[keep], remark


def _scale_factors(path: Path) -> dict[str, Any]:
    check_content(path)
    try:
        with open_plain(path) as handle:
            stored = json.loads(handle.read().decode("utf-8-sig"))
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise ClearError(f"{path} is no JSON of scale factors ({error}); fetch it again.") from None
    if not isinstance(stored, dict):
        raise ClearError(f"{path} is no JSON of scale factors, by name; fetch it again.")
    for name, value in stored.items():
        good = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
        if value is not None and (name.endswith("_scalef") or name == "spot_diameter_fullres") and not good:
            raise ClearError(f"{path}: {name} is {value!r}, not a positive number.")
    return {name: value for name, value in stored.items() if value is not None}  # None cannot be stored


READERS.register(
    Reader(
        "visium",
        "Visium, Space Ranger output",
        "a folder with filtered_feature_bc_matrix.h5 and spatial/tissue_positions*.csv",
        detect=is_visium,
        read=read_visium,
        options=("load_images",),
        clear_errors=False,
        order=30,
    )
)
