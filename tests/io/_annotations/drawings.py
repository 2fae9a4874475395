"""A section of 100 spots, and drawings of its left and right half as QuPath, napari and Xenium Explorer write them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

import st_concepts as stc

# left and right half of the section below
LEFT, RIGHT = (-1.0, -1.0, 41.0, 91.0), (41.0, -1.0, 91.0, 91.0)
HEADER = "index,shape-type,vertex-index,axis-0,axis-1\n"  # of napari
# of Xenium Explorer
ONE = "#Selection name: Tumor é\n#Area (µm^2): 1234.5\n"
TWO = "#Selection names: A, B\n#Areas (µm^2): 12, 34\n"
CELLS = "Cell ID,Cluster,Transcripts,Area (µm^2)\n"


def section(n: int = 10) -> AnnData:
    """A square of n x n spots, 0, 10, ... in x and y, named as cells of Xenium."""
    rows, cols = (a.ravel() for a in np.mgrid[:n, :n])
    adata = AnnData(np.ones((n * n, 2), dtype=np.float32))
    adata.obs_names = [f"aaaa{chr(97 + i // 16)}{chr(97 + i % 16)}aa-1" for i in range(n * n)]
    adata.obsm["spatial"] = np.column_stack([cols, rows]) * 10.0
    return adata


def ring(box: tuple[float, float, float, float]) -> list[list[float]]:
    x, y, u, v = box
    return [[x, y], [u, y], [u, v], [x, v], [x, y]]


def polygon(box: tuple[float, float, float, float]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [ring(box)]}


def feature(geometry: Any, properties: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties} | more


def classed(name: str, **more: Any) -> dict[str, Any]:
    return {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}} | more


def save(path: Path, stored: Any) -> Path:
    if isinstance(stored, bytes):
        path.write_bytes(stored)
    else:
        path.write_text(stored if isinstance(stored, str) else json.dumps(stored), encoding="utf-8")
    return path


def read(path: Path, adata: AnnData | None = None, **kwargs: Any) -> tuple[dict[str, int], str]:
    """How many spots have each label, and the remarks."""
    adata = section() if adata is None else adata
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        stc.io.read_annotation(adata, path, **kwargs)
    # another package's warning must not reach the user
    assert all(str(path) in str(w.message) for w in said)
    return adata.obs["layer"].value_counts().to_dict(), " ".join(str(w.message) for w in said)


def napari(*shapes: tuple[str, list[Any]]) -> str:
    rows = [f"{i},{kind},{v},{y},{x}\n" for i, (kind, corners) in enumerate(shapes) for v, (x, y) in enumerate(corners)]
    return HEADER + "".join(rows)


def corners(box: tuple[float, float, float, float], before: str = "", after: str = "") -> str:
    return "".join(f"{before}{x},{y}{after}\n" for x, y in ring(box))


GOOD = ("rectangle", ring(LEFT)[:4])
