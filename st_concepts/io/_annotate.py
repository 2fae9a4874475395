"""Layers from where people draw them: spreadsheets, Loupe Browser, QuPath, napari, SpatialData."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._keys import KEYS
from st_concepts._progress import get_logger

from ._annotate_shapes import Overlap, is_napari, read_napari, read_shapes, spots_in
from ._annotate_table import read_barcodes
from ._annotation import match_labels
from ._annotation import read_annotation as read_st_annotation
from ._geojson import Region, read_geojson
from ._platforms import existing, zarr_kind
from ._spots import mostly_spot_names, parse_spot_names

if TYPE_CHECKING:
    from spatialdata import SpatialData

logger = get_logger("io")

_KINDS = ("barcodes", "geojson", "napari", "spatialdata")


def read_annotation(
    adata: AnnData,
    path: str | PathLike[str] | SpatialData,
    key: str = "layer",
    *,
    kind: str | None = None,
    column: str | None = None,
    element: str | None = None,
    coordinate_system: str | None = None,
    label: str | None = None,
    scale: float | str = 1.0,
    overlap: Overlap = "smallest",
    categories: Sequence[str] | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Bring layers that were drawn elsewhere to the spots.

    Parameters
    ----------
    adata
        The section. Polygons need ``obsm["spatial"]``.
    path
        A table of barcode and label (CSV or TSV, the export of Loupe Browser included); GeoJSON of QuPath; a napari
        shapes layer saved as CSV, or a folder of them, one a layer; a SpatialData store or object with shapes.
    key
        Column of ``adata.obs`` to write.
    kind
        ``"barcodes"``, ``"geojson"``, ``"napari"`` or ``"spatialdata"``; by default it is detected.
    column
        Column with the label, of a table with several or of SpatialData shapes.
    element
        Name of the SpatialData shapes; by default the only ones.
    coordinate_system
        Of SpatialData; by default ``"global"``, else the first.
    label
        Label of the shapes of a napari layer without a column for it; by default the name of the file.
    scale
        Pixels of the image that was drawn on per unit of ``obsm["spatial"]``; ``"hires"`` or ``"lowres"`` for those
        images of ``uns["spatial"]``. 1 for the full-resolution image.
    overlap
        For a spot in polygons of different labels: ``"smallest"`` takes the smallest polygon (an outline within
        another), ``"none"`` leaves the spot unlabelled, ``"error"`` raises.
    categories
        Labels in the order wanted, from the outside inwards, say: makes the column an ordered categorical. By default
        the labels in the order of the file, unordered.
    copy
        Return a changed copy instead of writing into ``adata``.

    Returns
    -------
    `None`, or the copy. Writes ``obs[key]``, a categorical; NaN for spots without a label. How many spots were
    labelled is logged (logger ``st_concepts.io``, level INFO).

    Raises
    ------
    FileNotFoundError
        No such path.
    ValueError
        The file cannot be read; no polygon touches any spot (with both bounding boxes); no barcode is a spot; labels
        that are not in ``categories``.
    KeyError
        Polygons, but no ``obsm["spatial"]``.

    Warns
    -----
    UserWarning
        Barcodes that are not in the data; polygons that overlap or have no class; objects that are no areas.

    Notes
    -----
    A spot belongs to a polygon if its centre is inside or on the edge; holes are respected; outlines that cross
    themselves are repaired.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=100, n_vars=120)
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "layers.geojson"
    >>> stc.io.write_annotation(adata, path, key="layer")
    >>> stc.io.read_annotation(adata, path, key="again")
    >>> (adata.obs["again"].astype(str) == adata.obs["layer"].astype(str)).all()
    np.True_
    """
    if kind is not None and kind not in _KINDS:
        raise ValueError(f"kind={kind!r} is unknown; use {', '.join(map(repr, _KINDS))}.")
    if overlap not in get_args(Overlap):
        raise ValueError(f"overlap={overlap!r} is unknown; use {', '.join(map(repr, get_args(Overlap)))}.")
    is_path = isinstance(path, (str, PathLike))
    where = str(path) if is_path else "The SpatialData"
    source = existing(path) if isinstance(path, (str, PathLike)) else path
    kind = kind or (_kind(source) if isinstance(source, Path) else "spatialdata")
    if kind == "barcodes":
        labels, order, remarks = _from_table(adata, Path(where).expanduser(), key, column)
    else:
        if kind == "geojson":
            regions, remarks = read_geojson(Path(where).expanduser())
        elif kind == "napari":
            regions, remarks = _napari(Path(where).expanduser(), label)
        else:
            regions, remarks = _shapes(source, element, column, coordinate_system)
        points, frames = _points(adata, scale)
        labels, order, more = spots_in(regions, points, overlap=overlap, where=where, frames=frames)
        remarks += more
    values = _categorical(labels, order, categories, where)
    for remark in remarks:
        warnings.warn(f"{where}: {remark}.", UserWarning, stacklevel=2)
    unlabelled = int(pd.isna(values).sum())
    logger.info(
        "%s: %d of %d spots labelled (%s), %d without a label",
        where,
        adata.n_obs - unlabelled,
        adata.n_obs,
        ", ".join(f"{name} {int((labels == name).sum())}" for name in order),
        unlabelled,
    )
    out = adata.copy() if copy else adata
    out.obs[key] = pd.Series(values, index=out.obs_names)
    return out if copy else None


def _kind(path: Path) -> str:
    if path.is_dir():
        if zarr_kind(path) == "spatialdata":
            return "spatialdata"
        if any(path.glob("*.csv")):
            return "napari"
        raise ValueError(f"{path} is a folder without CSV files of napari, and no SpatialData store.")
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".geojson", ".json")):
        return "geojson"
    with path.open("rb") as handle:
        head = handle.read(2048).lstrip(b"\xef\xbb\xbf \r\n\t")
    if head[:1] in (b"{", b"["):
        return "geojson"
    first = head.split(b"\n", 1)[0].decode("utf-8", "replace")
    return "napari" if is_napari(first.split(",")) else "barcodes"


def _from_table(adata: AnnData, path: Path, key: str, column: str | None) -> tuple[np.ndarray, list[str], list[str]]:
    try:
        return read_barcodes(path, adata.obs_names, key=key, column=column)
    except ValueError as error:
        # spots of classic ST are named by position, "16.92x9.015" in one file and "17_9" in another
        if not mostly_spot_names(adata.obs_names.tolist()):
            raise
        try:
            spots, labels, order = read_st_annotation(path, column)
            coords = parse_spot_names(adata.obs_names, where="adata.obs_names")
            return match_labels(coords, spots, labels, where=str(path)), order, []
        except ValueError as second:
            raise error from second


def _napari(path: Path, label: str | None) -> tuple[list[Region], list[str]]:
    if not path.is_dir():
        return read_napari(path, label)
    regions: list[Region] = []
    remarks: list[str] = []
    for file in sorted(path.glob("*.csv")):
        more, said = read_napari(file, None)
        regions += more
        remarks += [f"{file.name}: {text}" for text in said]
    return regions, remarks


def _shapes(
    source: Path | SpatialData, element: str | None, column: str | None, system: str | None
) -> tuple[list[Region], list[str]]:
    if isinstance(source, Path):
        from ._platform_spatialdata import open_store

        source = open_store(source)
    return read_shapes(source, element, column, system)


def _points(adata: AnnData, scale: float | str) -> tuple[np.ndarray, dict[str, float]]:
    """Spots in the frame of the drawing, and the scales of the images relative to it."""
    if KEYS.SPATIAL not in adata.obsm:
        raise KeyError(
            f"adata.obsm[{KEYS.SPATIAL!r}] is missing: polygons are matched by the coordinates of the spots, in pixels "
            "of the image that was drawn on."
        )
    points = np.asarray(adata.obsm[KEYS.SPATIAL], dtype=np.float64)[:, :2]
    scales: dict[str, float] = {}
    for entry in adata.uns.get(KEYS.SPATIAL, {}).values():
        for name, factor in (entry.get("scalefactors", {}) if hasattr(entry, "get") else {}).items():
            if name.startswith("tissue_") and name.endswith("_scalef"):
                scales[name[len("tissue_") : -len("_scalef")]] = float(factor)
    if isinstance(scale, str):
        if scale not in scales:
            raise ValueError(
                f"scale={scale!r}: uns['spatial'] has no such image; there are: {', '.join(scales) or 'none'}."
            )
        factor = scales[scale]
    else:
        factor = float(scale)
        if not factor > 0 or not np.isfinite(factor):
            raise ValueError(f"scale={scale!r} must be a positive number, 'hires' or 'lowres'.")
    return points * factor, {name: value / factor for name, value in scales.items()}


def _categorical(labels: np.ndarray, order: list[str], categories: Sequence[str] | None, where: str) -> pd.Categorical:
    if categories is None:
        return pd.Categorical(labels, categories=[name for name in order if (labels == name).any()])
    wanted = [str(c) for c in categories]
    unknown = [name for name in order if name not in wanted]
    if unknown:
        raise ValueError(f"{where}: label(s) {', '.join(unknown)} are not in categories=, {', '.join(wanted)}.")
    return pd.Categorical(labels, categories=wanted, ordered=True)
