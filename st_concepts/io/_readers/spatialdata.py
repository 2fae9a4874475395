"""Tables of SpatialData as AnnData with coordinates and an image, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._files.content import ClearError
from st_concepts._slots import KEYS, safe_labels
from st_concepts.io._writable import writable_copy

from .base import READERS, Reader
from .others import logger, others_warnings
from .peek import zarr_kind

if TYPE_CHECKING:
    from spatialdata import SpatialData

_ATTRS = "spatialdata_attrs"
# marks entries of uns["spatial"] that were made here from elements of the store, and do not go back into it
MADE_HERE = "spatialdata"
_HIRES = 1000  # pixels, longest side


def read_spatialdata(path: Path, *, table: str | None = None) -> AnnData:
    """A table of a SpatialData store."""
    return table_as_anndata(open_store(path), table)


def open_store(path: Path) -> SpatialData:
    """The store, images and points lazily."""
    with others_warnings():
        import spatialdata as sd

        return sd.read_zarr(path)


def table_name(sdata: SpatialData, table: str | None) -> str:
    """The table asked for, or the only one."""
    names = list(sdata.tables)
    if table is not None:
        if table not in names:
            raise ClearError(f"No table {table!r} in the SpatialData; there are: {', '.join(names) or 'none'}.")
        return table
    if len(names) != 1:
        raise ClearError(
            f"The SpatialData has several tables, {', '.join(names)}; choose one with table=."
            if names
            else "The SpatialData has no table, so there are no counts to work on."
        )
    return names[0]


def table_as_anndata(sdata: SpatialData, table: str | None, *, linked: bool = True) -> AnnData:
    """A copy of a table with ``obsm["spatial"]``, ``obs["section"]`` and, where there is one, the histology image.

    ``linked`` keeps what ties the table to its elements (``uns["spatialdata_attrs"]``).
    """
    with others_warnings():  # about gene names, which the caller makes unique
        adata = sdata.tables[table_name(sdata, table)].copy()
    attrs = adata.uns.get(_ATTRS, {})
    if not linked:
        adata.uns.pop(_ATTRS, None)
    regions = attrs.get("region") or []
    regions = [regions] if isinstance(regions, str) else [str(r) for r in regions]
    regions = [r for r in regions if r in sdata]
    if not regions:
        if KEYS.SPATIAL not in adata.obsm:
            logger.warning("The table annotates no element of the SpatialData: the spots have no coordinates.")
        return adata
    of_row = adata.obs[attrs["region_key"]].astype(str).to_numpy()
    ids = adata.obs[attrs["instance_key"]]
    own = np.asarray(adata.obsm[KEYS.SPATIAL], dtype=np.float64)[:, :2] if KEYS.SPATIAL in adata.obsm else None
    coords = np.full((adata.n_obs, 2), np.nan) if own is None else own
    spatial: dict[str, Any] = {}
    labels = dict(zip(regions, safe_labels(regions), strict=True))
    with others_warnings():
        for region in regions:
            rows = of_row == region
            system = coordinate_system(sdata[region])
            placed, diameter = _centroids(sdata[region], system, ids[rows])
            if own is None:
                coords[rows] = placed
            factor = _scale_between(coords[rows], placed)
            entry = None if factor is None else _image(sdata, system, placed, factor, diameter)
            if entry is not None:
                spatial[labels[region]] = entry
    if np.isnan(coords).any():
        lost = int(np.isnan(coords).any(1).sum())
        raise ClearError(f"{lost} of {adata.n_obs} rows of the table have no instance in {', '.join(regions)}.")
    adata.obsm[KEYS.SPATIAL] = coords
    if KEYS.BATCH not in adata.obs:
        adata.obs[KEYS.BATCH] = pd.Categorical([labels.get(r, r) for r in of_row])
    if spatial and KEYS.SPATIAL not in adata.uns:
        adata.uns[KEYS.SPATIAL] = spatial
    return adata


def coordinate_system(element: Any) -> str:
    """``"global"`` where the element is in it, else its first that is not a reduced copy."""
    from spatialdata.transformations import get_transformation

    names = list(get_transformation(element, get_all=True))
    if "global" in names:
        return "global"
    return next((n for n in names if "downscaled" not in n), names[0])


def _centroids(element: Any, system: str, ids: pd.Series) -> tuple[np.ndarray, float]:
    """Centres of the instances in a coordinate system, and their typical diameter there."""
    import spatialdata as sd

    points = sd.get_centroids(element, coordinate_system=system).compute()
    at = pd.Index(points.index).get_indexer(ids.to_numpy())
    placed = np.where(at[:, None] >= 0, points[["x", "y"]].to_numpy(dtype=np.float64)[at], np.nan)
    diameter = np.nan
    if hasattr(element, "geometry"):
        shapes = sd.transform(element, to_coordinate_system=system)
        area = shapes.geometry.area.median()
        diameter = 2 * float(shapes["radius"].median()) if "radius" in shapes else 2 * float(np.sqrt(area / np.pi))
    if not np.isfinite(diameter) or diameter <= 0:
        extent = np.ptp(placed, axis=0).clip(min=1.0)
        diameter = 0.5 * float(np.sqrt(extent.prod() / max(len(placed), 1)))
    return placed, diameter


def _scale_between(coords: np.ndarray, placed: np.ndarray) -> float | None:
    """``placed / coords`` where that is one number for all spots (1 for the same frame), else `None`."""
    norm = float((coords**2).sum())
    if not np.isfinite(placed).all() or norm == 0:
        return None
    factor = float((coords * placed).sum()) / norm
    extent = max(float(np.ptp(placed, axis=0).max()), 1e-12)
    return factor if factor > 0 and np.abs(placed - factor * coords).max() < 0.01 * extent else None


def _image(
    sdata: SpatialData, system: str, placed: np.ndarray, factor: float, diameter: float
) -> dict[str, Any] | None:
    """Entry of ``uns["spatial"]`` from the colour image that lies in the coordinate system; `None` without one."""
    import spatialdata as sd
    from spatialdata.models import get_axes_names
    from spatialdata.transformations import get_transformation

    found = []
    for name, image in sdata.images.items():
        first = image if hasattr(image, "shape") else next(iter(image["scale0"].values()))
        axes = get_axes_names(image)
        if system in get_transformation(image, get_all=True) and dict(zip(axes, first.shape, strict=True))["c"] in (
            3,
            4,
        ):
            found.append((0 if "hires" in name else 1, name, image))
    if not found or (placed < 0).any():
        return None
    _, name, image = min(found, key=lambda f: f[:2])
    extent = sd.get_extent(image, coordinate_system=system)
    far = np.array([max(extent[axis][1], placed[:, k].max()) for k, axis in enumerate("xy")])
    per_unit = _HIRES / float(far.max())
    raster = sd.rasterize(
        image,
        axes=("x", "y"),
        min_coordinate=[0.0, 0.0],
        max_coordinate=far.tolist(),
        target_coordinate_system=system,
        target_unit_to_pixels=per_unit,
    )
    pixels = np.asarray(raster.transpose("y", "x", "c"))[..., :3]
    logger.info("image on which spots are drawn: %s", name)
    return {
        "images": {"hires": _uint8(pixels)},
        "scalefactors": {"tissue_hires_scalef": per_unit * factor, "spot_diameter_fullres": diameter / factor},
        "metadata": {"made_from": MADE_HERE, "image": name},
    }


def _uint8(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    top = float(pixels.max())
    # resampling may turn uint8 into floats of the same range
    top = 1.0 if np.issubdtype(pixels.dtype, np.floating) and top <= 1.0 else max(top, 255.0)
    return np.clip(np.rint(pixels.astype(np.float64) * (255.0 / top)), 0, 255).astype(np.uint8)


def with_table(sdata: SpatialData, adata: AnnData, table: str | None) -> SpatialData:
    """A SpatialData of the same elements in which ``adata`` is the table; ``sdata`` stays as it is."""
    name = table_name(sdata, table)
    light = writable_copy(adata)
    entries = light.uns.get(KEYS.SPATIAL, {})
    kept = {k: v for k, v in entries.items() if v.get("metadata", {}).get("made_from") != MADE_HERE}
    if kept:
        light.uns[KEYS.SPATIAL] = kept
    else:
        light.uns.pop(KEYS.SPATIAL, None)
    if _ATTRS not in light.uns and _ATTRS in sdata.tables[name].uns:
        raise ClearError(
            f"uns[{_ATTRS!r}] is gone, so the table no longer says which elements it is about; read it with "
            "st_concepts.io.read, or keep that entry."
        )
    with others_warnings():
        import spatialdata as sd

        out = sd.SpatialData(
            images=dict(sdata.images),
            labels=dict(sdata.labels),
            points=dict(sdata.points),
            shapes=dict(sdata.shapes),
            tables={n: (light if n == name else writable_copy(t)) for n, t in sdata.tables.items()},
            attrs=dict(sdata.attrs),
        )
    return out


READERS.register(
    Reader(
        "spatialdata",
        "SpatialData, .zarr",
        "a zarr store with tables",
        detect=lambda path: zarr_kind(path) == "spatialdata",
        read=read_spatialdata,
        options=("table",),
        short="SpatialData stores",
        clear_errors=False,
        order=20,
    )
)
