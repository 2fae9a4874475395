"""One panel per value and library on the tissue, drawn by squidpy, cropped to the spots."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial import cKDTree

from st_concepts._keys import KEYS
from st_concepts.pl._finish import finish, given_axes, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_VALUE = "value"
PANEL_WIDTH = 4.6  # inches, colour bar included


def draw(
    adata: AnnData,
    values: list[pd.Series],
    titles: list[str],
    options: list[dict[str, Any]],
    *,
    unit: str,
    ncols: int,
    width: float = PANEL_WIDTH,
    library_key: str | None,
    ax: Axes | Sequence[Axes] | None,
    show: bool | None,
    save: str | os.PathLike[str] | bool | None,
    name: str,
) -> Axes | list[Axes]:
    """One panel per value and library, on a light copy that holds nothing but what is drawn."""
    if KEYS.SPATIAL not in adata.obsm:
        raise KeyError(
            f"adata.obsm[{KEYS.SPATIAL!r}] is missing: put the coordinates of the spots there, an (n_obs, 2) array."
        )
    libraries = _libraries(adata, library_key)
    axes = given_axes(ax, len(values) * len(libraries))
    own = axes is None
    if axes is None:
        axes = new_axes(len(values) * len(libraries), ncols=ncols, panel=panel_size(adata, width))
    position = iter(axes)
    for value, title, option in zip(values, titles, options, strict=True):
        for library, rows in libraries:
            label = f"{title}, {library}" if len(libraries) > 1 else title
            _panel(adata, value, rows, library, title=label, unit=unit, ax=next(position), options=option)
    finish(axes[0].figure, name, show=show, save=save, own=own)
    return axes[0] if len(axes) == 1 else axes


def panel_size(adata: AnnData, width: float = PANEL_WIDTH) -> tuple[float, float]:
    """Width and height in inches of a panel that fits the shape of the tissue, its title and its colour bar."""
    extent = np.ptp(np.asarray(adata.obsm[KEYS.SPATIAL], dtype=np.float64)[:, :2], axis=0)
    ratio = float(np.clip(extent[1] / extent[0], 0.4, 2.0)) if extent.min() > 0 else 1.0
    return width, (width - 1.2) * ratio + 0.5


def _panel(
    adata: AnnData,
    value: pd.Series,
    rows: np.ndarray,
    library: str | None,
    *,
    title: str,
    unit: str,
    ax: Axes,
    options: dict[str, Any],
) -> None:
    light = AnnData(
        obs=pd.DataFrame({_VALUE: value.to_numpy() if value.dtype != "category" else value.array}, value.index)[rows],
        obsm={KEYS.SPATIAL: np.asarray(adata.obsm[KEYS.SPATIAL], dtype=np.float64)[rows, :2]},
    )
    if library is None:
        # any library_id will do without an image; none makes squidpy ask for one
        size = _point_size(light.obsm[KEYS.SPATIAL], ax)
        where: dict[str, Any] = {"shape": None, "size": size, "library_id": ""}
    else:
        stored = adata.uns[KEYS.SPATIAL][library]
        light.uns[KEYS.SPATIAL] = {library: stored}
        images = stored["images"]
        where = {
            "shape": "circle",
            "library_id": library,
            "img_res_key": "hires" if "hires" in images else next(iter(images)),
            "size": 1.3,
        }
    before = set(ax.figure.axes)
    with warnings.catch_warnings():
        # squidpy about its own docstrings, its use of matplotlib, and a colour map it passes with colours
        warnings.filterwarnings("ignore", category=SyntaxWarning)
        warnings.filterwarnings("ignore", category=PendingDeprecationWarning)
        warnings.filterwarnings("ignore", message="No data for colormapping", category=UserWarning)
        import squidpy as sq

        sq.pl.spatial_scatter(light, color=_VALUE, title=title, axis_label="", ax=ax, **(where | options))
    for bar in set(ax.figure.axes) - before:
        bar.set_ylabel(unit)
    ax.set(xlabel="", ylabel="")
    ax.spines[:].set_visible(False)
    if library is not None and options.get("crop_coord") is None:
        factor = float(stored["scalefactors"].get(f"tissue_{where['img_res_key']}_scalef", 1.0))
        _crop(ax, light.obsm[KEYS.SPATIAL] * factor)


def _crop(ax: Axes, pixels: np.ndarray) -> None:
    """Show the part of the image that has spots, with a margin: slides are mostly empty glass."""
    low, high = pixels.min(0), pixels.max(0)
    margin = 0.08 * max(*(high - low), 1.0)
    ax.set_xlim(low[0] - margin, high[0] + margin)
    ax.set_ylim(high[1] + margin, low[1] - margin)  # pixel rows count downwards


def _libraries(adata: AnnData, library_key: str | None) -> list[tuple[str | None, np.ndarray]]:
    """Images to draw on, each with its rows (boolean); one entry of `None` where there is no image."""
    everything = np.ones(adata.n_obs, dtype=bool)
    stored = adata.uns.get(KEYS.SPATIAL, {})
    with_image = [name for name, entry in stored.items() if isinstance(entry, dict) and entry.get("images")]
    if not with_image:
        return [(None, everything)]
    if len(with_image) == 1 and library_key is None:
        return [(with_image[0], everything)]
    key = library_key or KEYS.BATCH
    if key not in adata.obs:
        raise ValueError(
            f"adata.uns['spatial'] holds {len(with_image)} images and adata.obs has no column {key!r}; name the column "
            "that says on which image a spot is: library_key=."
        )
    sections = adata.obs[key].astype(str).to_numpy()
    unknown = sorted(set(sections) - set(with_image))
    if unknown:
        raise ValueError(
            f"adata.obs[{key!r}] names {unknown[0]!r}, but adata.uns['spatial'] has images of {', '.join(with_image)} "
            "only; name the right column with library_key=."
        )
    return [(name, sections == name) for name in with_image if (sections == name).any()]


def _point_size(spatial: np.ndarray, ax: Axes) -> float:
    """Area of a point, in points squared, such that neighbours nearly touch."""
    box = ax.get_position()
    width, height = ax.figure.get_size_inches() * (box.width, box.height)
    extent = np.ptp(spatial, axis=0)
    extent[extent == 0] = 1.0
    per_inch = max(extent[0] / max(width, 1e-6), extent[1] / max(height, 1e-6))
    some = spatial[:: max(1, len(spatial) // 2000)]
    distance = cKDTree(spatial).query(some, k=2)[0][:, 1] if len(spatial) > 1 else np.ones(1)
    pitch = float(np.median(distance)) / per_inch * 72
    # "." is drawn at half of the nominal diameter
    return float(np.clip((1.7 * pitch) ** 2, 0.5, 600.0))


def symmetric(values: pd.Series) -> Any:
    """Colours even around zero; one extreme spot must not bleach the rest."""
    from matplotlib.colors import Normalize

    finite = np.abs(values.to_numpy(dtype=np.float64))
    finite = finite[np.isfinite(finite)]
    drawn = finite[finite > 0]
    end = float(np.percentile(drawn, 99)) if drawn.size else 1.0
    return Normalize(vmin=-end, vmax=end)
