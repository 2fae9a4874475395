"""Layers as outlines that QuPath opens."""

from __future__ import annotations

import json
import uuid
from os import PathLike
from typing import Any

import numpy as np
from anndata import AnnData

from st_concepts._counts.frames import obs_column
from st_concepts._files import replaceable, whole_file
from st_concepts._slots import KEYS

from .geojson_label import LABEL_KEY, no_text
from .shapes import plane_of


def write_annotation(
    adata: AnnData, path: str | PathLike[str], key: str = "layer", *, scale: float = 1.0, reach: float = 0.75
) -> None:
    """Write the layers of the spots as GeoJSON polygons that QuPath opens and `read_annotation` reads back.

    Parameters
    ----------
    adata
        A section with ``obs[key]`` and ``obsm["spatial"]``; only read.
    path
        File to write.
    key
        Column of ``adata.obs`` with the layer of each spot; NaN is in no polygon.
    scale
        Pixels of the image to draw on per unit of ``obsm["spatial"]``.
    reach
        How far a layer extends beyond the centres of its outermost spots, in pitches between spots.

    Raises
    ------
    KeyError
        No such column, no coordinates.
    ValueError
        No spot has a label; a label that is blank, or the same text as another; a labelled spot without finite
        coordinates; two spots with different labels at the same place; ``path`` is no
        regular file.
    OSError
        The folder does not exist or cannot be written; what was there is left.

    Notes
    -----
    The outline of a layer is the union of the Voronoi cells of its spots, cut off ``reach`` pitches from them, so each
    spot is inside of its own layer and of no other. The label is stored as the class, and once more as metadata, as
    QuPath rewrites colons and ignores a class that ends in a star.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import st_concepts as stc
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "layers.geojson"
    >>> stc.io.write_annotation(stc.datasets.simulated_bulb(n_obs=100, n_vars=120), path)
    """
    import shapely

    replaceable(path)  # before the work
    column = obs_column(adata, key).astype("category")
    if KEYS.SPATIAL not in adata.obsm:
        raise KeyError(f"adata.obsm[{KEYS.SPATIAL!r}] is missing: outlines need the coordinates of the spots.")
    if not 0 < scale < np.inf or not 0 < reach < np.inf:
        raise ValueError(f"scale={scale} and reach={reach} must be positive and finite.")
    labels = column.cat.remove_unused_categories()
    if not labels.notna().any():
        raise ValueError(f"adata.obs[{key!r}] has no label.")
    _check_names(list(labels.cat.categories), key)
    points = plane_of(adata.obsm[KEYS.SPATIAL]) * scale
    codes = labels.cat.codes.to_numpy()
    points, codes = _placed(points, codes, key)
    cells, owner = _cells(points, reach)
    _check_places(codes, owner, key)
    stored = adata.uns.get(f"{key}_colors")
    colors = dict(zip(map(str, column.cat.categories), stored, strict=False)) if stored is not None else {}
    features = [
        _feature(str(name), shapely.union_all(cells[np.unique(owner[codes == k])]), colors.get(str(name)))
        for k, name in enumerate(labels.cat.categories)
    ]
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")


def _check_names(names: list[Any], key: str) -> None:
    texts = [str(name) for name in names]
    twice = [text for text in dict.fromkeys(texts) if texts.count(text) > 1]
    if twice:
        raise ValueError(f"adata.obs[{key!r}] has labels that differ in type only, {twice[0]!r}; rename one of them.")
    bad = next((text for text in texts if not text.strip() or no_text(text)), None)
    if bad is not None:
        raise ValueError(f"adata.obs[{key!r}] has the label {bad!a}, which no drawing can hold; rename it.")


def _placed(points: np.ndarray, codes: np.ndarray, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Spots with coordinates; one without that has a label would be lost."""
    finite = np.isfinite(points).all(1)
    if lost := int((~finite & (codes >= 0)).sum()):
        raise ValueError(
            f"{lost} spots with a label in obs[{key!r}] have no finite coordinates in obsm['spatial'] and could not be "
            "drawn; correct the coordinates, or remove these spots."
        )
    return points[finite], codes[finite]


def _cells(points: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Voronoi cell of each distinct place, cut to its neighbourhood, and the cell of each spot."""
    import shapely
    from scipy.spatial import cKDTree

    places, owner = np.unique(points, axis=0, return_inverse=True)
    owner = owner.ravel()
    if len(places) == 1:
        return np.array([shapely.Point(places[0]).buffer(reach)]), owner
    near = cKDTree(places).query(places, k=2)[0][:, 1]
    around = shapely.buffer(shapely.points(places), reach * float(np.median(near)) * np.sqrt(2), quad_segs=4)
    # cells come in an order of their own; each holds one place
    voronoi = shapely.get_parts(shapely.voronoi_polygons(shapely.multipoints(places)))
    cell, place = shapely.STRtree(shapely.points(places)).query(voronoi, predicate="intersects")
    ordered = np.empty(len(places), dtype=object)
    ordered[place] = voronoi[cell]
    return shapely.intersection(ordered, around), owner


def _check_places(codes: np.ndarray, owner: np.ndarray, key: str) -> None:
    first = np.full(owner.max() + 1, -2)
    first[owner[::-1]] = codes[::-1]
    if (first[owner] != codes).any():
        n = int((first[owner] != codes).sum())
        raise ValueError(
            f"{n} spots are at the place of another spot that has a different obs[{key!r}]; outlines cannot tell them "
            "apart. Write one section at a time."
        )


def _feature(name: str, shape: Any, color: str | None) -> dict[str, Any]:
    import shapely

    classification: dict[str, Any] = {"name": name}
    if color is not None:
        from matplotlib.colors import is_color_like, to_rgb

        if is_color_like(color):
            classification["color"] = [round(255 * c) for c in to_rgb(color)]
    return {
        "type": "Feature",
        # the same layer drawn the same way has the same id
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name}{shape.wkt}")),
        "geometry": json.loads(shapely.to_geojson(shape)),
        "properties": {"objectType": "annotation", "classification": classification, "metadata": {LABEL_KEY: name}},
    }
