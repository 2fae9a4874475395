"""Layers from where people draw them: spreadsheets, Loupe Browser, QuPath, napari, Xenium Explorer, SpatialData."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._files.content import existing
from st_concepts._log import get_logger
from st_concepts._slots import KEYS
from st_concepts.io._faults import clear_faults
from st_concepts.io._readers.spot_names import mostly_spot_names, parse_spot_names
from st_concepts.io._readers.st_labels import match_labels
from st_concepts.io._readers.st_labels import read_annotation as read_st_annotation

from .geojson import Region, read_geojson
from .kind import DRAWING_KINDS, drawing_files, drawing_kind
from .napari import read_napari
from .sections import by_section, settled, table_by_section
from .shapes import Overlap, plane_of, read_shapes, spots_in, stacked
from .sheet import Sheet
from .table import read_barcodes
from .xenium import XENIUM_PIXEL, read_selection, selected_cells, selection_regions

if TYPE_CHECKING:
    from spatialdata import SpatialData

logger = get_logger("io")


def read_annotation(
    adata: AnnData,
    path: str | PathLike[str] | SpatialData | Mapping[str, Any],
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
    missing: Sequence[str] | str | None = None,
    section_key: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Bring layers that were drawn elsewhere to the spots.

    Parameters
    ----------
    adata
        The section. Polygons need ``obsm["spatial"]``.
    path
        A table of barcode and label (CSV or TSV, the export of Loupe Browser included); GeoJSON of QuPath, GeoPandas
        and others; a napari shapes layer saved as CSV, or a folder of them, one a layer; selections of Xenium Explorer
        as CSV (coordinates or cells), or a folder of them; a SpatialData store or object with shapes. For several
        sections in one AnnData, one for each: ``{"S1": "S1.csv", "S2": "S2.csv"}``, with ``section_key``.
    key
        Column of ``adata.obs`` to write.
    kind
        ``"barcodes"``, ``"geojson"``, ``"napari"``, ``"xenium"`` or ``"spatialdata"``; by default it is detected.
    column
        Column with the label, of a table with several or of SpatialData shapes; property of the GeoJSON features. By
        default a GeoJSON label is the classification of QuPath (of derived classes the names joined, ``"Tumor:
        Positive"``), or where there is none the property called as ``key``, else ``layer``, ``label``, ``class``,
        ``annotation``, ``region`` or ``name``.
    element
        Name of the SpatialData shapes; by default the only ones.
    coordinate_system
        Of SpatialData; by default ``"global"``, else the first.
    label
        Label of the shapes of a napari layer without a column for it, of a Xenium selection without names for each (by
        default the name of the selection, else of the file), and of GeoJSON outlines without one.
    scale
        Pixels of the image that was drawn on per unit of ``obsm["spatial"]``; ``"hires"`` or ``"lowres"`` for those
        images of ``uns["spatial"]``. 1 for the full-resolution image. Selections of Xenium Explorer are in micrometres.
    overlap
        For a spot in polygons of different labels: ``"smallest"`` takes the smallest polygon (an outline within
        another), ``"none"`` leaves the spot unlabelled, ``"error"`` raises.
    categories
        Labels in the order wanted, from the outside inwards, say: makes the column an ordered categorical. By default
        the labels in the order of the file, unordered.
    missing
        Words that mean missing, in any case, in place of `st_concepts.io.MISSING` (``"NA"``, ``"unknown"``,
        ``"unassigned"`` and so on); ``[]`` for none. A word named in ``categories`` is a label.
    section_key
        Column of ``adata.obs`` with the section of each spot, for a file a section, or for one table with a column of
        that name: barcodes are then looked for in their own section.
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
        The file cannot be read; no polygon touches any spot (with both bounding boxes); no barcode is a spot, or one is
        several; numbers or names for labels; labels that are not in ``categories``.
    KeyError
        Polygons, but no ``obsm["spatial"]``; no column ``section_key``.

    Warns
    -----
    UserWarning
        Barcodes that are not in the data, or matched without a suffix or prefix; polygons that overlap or have no
        class; objects that are no areas; words such as ``unknown`` that were taken as missing; labels that differ
        little.

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
    if kind is not None and kind not in DRAWING_KINDS:
        raise ValueError(f"kind={kind!r} is unknown; use {', '.join(map(repr, DRAWING_KINDS))}.")
    if overlap not in get_args(Overlap):
        raise ValueError(f"overlap={overlap!r} is unknown; use {', '.join(map(repr, get_args(Overlap)))}.")
    if isinstance(path, Mapping):
        options: dict[str, Any] = {"kind": kind, "column": column, "element": element, "label": label, "scale": scale}
        options |= {"coordinate_system": coordinate_system, "overlap": overlap}
        options |= {"categories": categories, "missing": missing}
        every = by_section(adata, path, key, section_key, read_annotation, options)
        out = adata.copy() if copy else adata
        out.obs[key] = pd.Series(every, index=out.obs_names)
        return out if copy else None
    is_path = isinstance(path, (str, PathLike))
    where = str(path) if is_path else "The SpatialData"
    source = existing(path) if isinstance(path, (str, PathLike)) else path
    kind = kind or (drawing_kind(source) if isinstance(source, Path) else "spatialdata")
    if kind == "barcodes":
        labels, order, remarks = _from_table(adata, Path(where).expanduser(), key, column, missing, section_key)
    elif section_key is not None:
        raise ValueError("section_key= needs a drawing for each section: {section: path}.")
    elif kind == "xenium":
        labels, order, remarks = _from_selections(adata, Path(where).expanduser(), label, column, scale, overlap)
    else:
        if kind == "spatialdata":
            regions, remarks = _shapes(source, element, column, coordinate_system)
        else:
            regions, remarks = _outlines(Path(where).expanduser(), kind, key=key, column=column, label=label)
        points, frames = _points(adata, scale)
        labels, order, more = clear_faults(spots_in)(regions, points, overlap=overlap, where=where, frames=frames)
        remarks += more
    if kind != "barcodes":
        remarks += stacked(adata, pd.notna(labels))
    labels, order, more, blank = settled(labels, order, missing, categories or (), where)
    remarks = [*remarks, *more]
    values = _categorical(labels, order, categories, where)
    for remark in remarks:
        warnings.warn(f"{where}: {remark}.", UserWarning, stacklevel=2)
    _log(where, labels, order, int(pd.isna(values).sum()), blank)
    out = adata.copy() if copy else adata
    out.obs[key] = pd.Series(values, index=out.obs_names)
    return out if copy else None


def _log(where: str, labels: np.ndarray, order: list[str], unlabelled: int, blank: str) -> None:
    n, counts = len(labels), ", ".join(f"{name} {int((labels == name).sum())}" for name in order)
    message = "%s: %d of %d spots labelled (%s), %d without a label%s"
    logger.info(message, where, n - unlabelled, n, counts, unlabelled, blank)


def _outlines(
    path: Path, kind: str, *, key: str, column: str | None, label: str | None
) -> tuple[list[Region], list[str]]:
    if kind == "napari":
        return _napari(path, label, column)
    return clear_faults(read_geojson)(path, key=key, column=column, label=label)


@clear_faults
def _from_table(
    adata: AnnData,
    path: Path,
    key: str,
    column: str | None,
    missing: Sequence[str] | str | None,
    section_key: str | None,
) -> tuple[np.ndarray, list[str], list[str]]:
    try:
        if section_key is not None:
            found = table_by_section(adata, path, section_key, key=key, column=column, missing=missing)
            return found.labels, found.order, found.remarks
        found = read_barcodes(path, adata.obs_names, key=key, column=column, missing=missing)
        return found.labels, found.order, found.remarks
    except ValueError as error:
        # spots of classic ST are named by position, "16.92x9.015" in one file and "17_9" in another
        if not mostly_spot_names(adata.obs_names.tolist()):
            raise
        try:
            # words are looked at for all kinds alike
            spots, labels, order = read_st_annotation(path, column, missing=[])
            coords = parse_spot_names(adata.obs_names, where="adata.obs_names")
            return match_labels(coords, spots, labels, where=str(path)), order, []
        except ValueError as second:
            raise error from second


@clear_faults
def _from_selections(
    adata: AnnData, path: Path, label: str | None, column: str | None, scale: float | str, overlap: Overlap
) -> tuple[np.ndarray, list[str], list[str]]:
    files = [read_selection(file) for file in (drawing_files(path) if path.is_dir() else [path])]
    of_cells = [file.cells is not None for file in files]
    if any(of_cells) and not all(of_cells):
        # a folder may hold both exports of the same selections
        files = [file for file, yes in zip(files, of_cells, strict=True) if yes]
    if any(of_cells):
        labels, order, remarks = selected_cells(
            files, lambda table: _match_cells(adata, table, path), label=label, column=column, overlap=overlap
        )
    else:
        regions, remarks = selection_regions(files, label, column)
        points, frames = _points(adata, scale)
        # the spots may be in pixels of the instrument
        if not isinstance(scale, str):
            frames |= {XENIUM_PIXEL: XENIUM_PIXEL / float(scale)}
        labels, order, more = spots_in(regions, points, overlap=overlap, where=str(path), frames=frames)
        remarks += more
    if any(of_cells) and not all(of_cells):
        remarks.append("the files of cells are used, those of coordinates are not")
    return labels, order, remarks


def _match_cells(adata: AnnData, table: dict[str, str], path: Path) -> tuple[np.ndarray, list[str]]:
    sheet = Sheet(["barcode", "label"], [list(pair) for pair in table.items()])
    found = read_barcodes(path, adata.obs_names, key="label", column="label", sheet=sheet)
    return found.labels, found.remarks


@clear_faults
def _napari(path: Path, label: str | None, column: str | None) -> tuple[list[Region], list[str]]:
    if not path.is_dir():
        return read_napari(path, label, column)
    regions: list[Region] = []
    remarks: list[str] = []
    for file in drawing_files(path):
        more, said = read_napari(file, None, column)
        regions += more
        remarks += [f"{file.name}: {text}" for text in said]
    return regions, remarks


@clear_faults
def _shapes(
    source: Path | SpatialData, element: str | None, column: str | None, system: str | None
) -> tuple[list[Region], list[str]]:
    if isinstance(source, Path):
        from st_concepts.io._readers.spatialdata import open_store

        source = open_store(source)
    return read_shapes(source, element, column, system)


def _points(adata: AnnData, scale: float | str) -> tuple[np.ndarray, dict[str | float, float]]:
    """Spots in the frame of the drawing, and the scales of the images relative to it."""
    if KEYS.SPATIAL not in adata.obsm:
        raise KeyError(
            f"adata.obsm[{KEYS.SPATIAL!r}] is missing: polygons are matched by the coordinates of the spots, in pixels "
            "of the image that was drawn on."
        )
    points = plane_of(adata.obsm[KEYS.SPATIAL])
    scales = _image_scales(adata.uns.get(KEYS.SPATIAL))
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


def _image_scales(stored: object) -> dict[str, float]:
    """Scale factors of the images by name; what is no scale factor is passed over."""
    scales: dict[str, float] = {}
    for entry in stored.values() if isinstance(stored, Mapping) else ():
        factors = entry.get("scalefactors") if isinstance(entry, Mapping) else None
        for name, factor in factors.items() if isinstance(factors, Mapping) else ():
            if not (isinstance(name, str) and name.startswith("tissue_") and name.endswith("_scalef")):
                continue
            try:
                value = float(factor)
            except (TypeError, ValueError):
                continue
            if value > 0 and np.isfinite(value):
                scales[name[len("tissue_") : -len("_scalef")]] = value
    return scales


def _categorical(labels: np.ndarray, order: list[str], categories: Sequence[str] | None, where: str) -> pd.Categorical:
    if categories is None:
        return pd.Categorical(labels, categories=[name for name in order if (labels == name).any()])
    wanted = [str(c) for c in categories]
    unknown = [name for name in order if name not in wanted]
    if unknown:
        raise ValueError(f"{where}: label(s) {', '.join(unknown)} are not in categories=, {', '.join(wanted)}.")
    return pd.Categorical(labels, categories=wanted, ordered=True)
