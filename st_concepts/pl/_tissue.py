"""One panel per section and value on the tissue, drawn by squidpy, cropped to the spots."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial import cKDTree

from st_concepts._counts.elsewhere import callers_level
from st_concepts._counts.images import TissueImage, read_images
from st_concepts._counts.positions import positions
from st_concepts._counts.sections import Sections, one_key, sections_of
from st_concepts._slots import KEYS
from st_concepts.pl._finish import finish, given_axes, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_VALUE = "value"
_LIBRARY = "section"
_SPOT_OF_PITCH = 0.6  # diameter of a spot whose size nobody says; Visium has 55 of 100 micrometres
_LONG_TITLE = 30  # characters that fit over a panel
_TALLEST = 300.0  # inches of a whole picture
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
    section_key: str | None = None,
    library_key: str | None = None,
    concepts_key: str = KEYS.CONCEPTS,
    ax: Axes | Sequence[Axes] | None,
    show: bool | None,
    save: str | os.PathLike[str] | bool | None,
    name: str,
) -> Axes | list[Axes]:
    """One panel per section and value, on a light copy that holds nothing but what is drawn."""
    positions(adata)  # what is wrong with them is said before anything else
    sections = sections_of(adata, one_key(section_key, library_key=library_key), concepts_key=concepts_key, warn=False)
    images, remarks = read_images(adata, sections)
    for remark in [*sections.remarks, *remarks]:
        warnings.warn(remark, UserWarning, stacklevel=callers_level())
    n = len(values) * len(sections.names)
    own = ax is None
    axes = panels(adata, sections, len(values), ncols=ncols, width=width) if own else given_axes(ax, n)
    position = iter(axes)
    for (section, rows), image in zip(sections.rows(), images, strict=True):
        for value, title, option in zip(values, titles, options, strict=True):
            label = _label(title, section) if sections.several else title
            _panel(adata, value, rows, image, title=label, unit=unit, ax=next(position), options=option)
    finish(axes[0].figure, name, show=show, save=save, own=own)
    return axes[0] if len(axes) == 1 else axes


def panels(adata: AnnData, sections: Sections, n: int, *, ncols: int, width: float = PANEL_WIDTH) -> list[Axes]:
    """Axes for ``n`` values of each section, section after section; each section begins a row of its own."""
    width, height = panel_size(adata, width, sections)
    n_rows = len(sections.names) * -(-n // max(1, ncols))
    size = width, min(height, _TALLEST / n_rows)  # more is more than picture files hold
    if n == 1 or not sections.several:
        return new_axes(n * len(sections.names), ncols=ncols, panel=size)
    # one row a section, as far as it stays readable
    ncols = n if n <= 2 * ncols else max(1, ncols)
    of_section = -(-n // ncols) * ncols
    keep = [s * of_section + j for s in range(len(sections.names)) for j in range(n)]
    return new_axes(of_section * len(sections.names), ncols=ncols, panel=size, keep=keep)


def panel_size(adata: AnnData, width: float = PANEL_WIDTH, sections: Sections | None = None) -> tuple[float, float]:
    """Width and height in inches of a panel that fits the shape of the tissue, its title and its colour bar."""
    xy = positions(adata)
    parts = [xy] if sections is None else [xy[rows] for _, rows in sections.rows() if rows.any()]
    ratios = []
    for part in parts:
        extent = np.ptp(part, axis=0)
        ratios.append(float(np.clip(extent[1] / extent[0], 0.4, 2.0)) if extent.min() > 0 else 1.0)
    # of several sections the one in the middle: a single tall one must not stretch all
    return width, (width - 1.2) * float(np.median(ratios)) + 0.5


def _label(title: str, section: str) -> str:
    both = f"{title}, {section}"
    return both if len(both) <= _LONG_TITLE else f"{title}\n{section}"


def _panel(
    adata: AnnData,
    value: pd.Series,
    rows: np.ndarray,
    image: TissueImage | None,
    *,
    title: str,
    unit: str,
    ax: Axes,
    options: dict[str, Any],
) -> None:
    light = AnnData(
        obs=pd.DataFrame({_VALUE: value.to_numpy() if value.dtype != "category" else value.array}, value.index)[rows],
        obsm={KEYS.SPATIAL: positions(adata)[rows]},
    )
    spatial = light.obsm[KEYS.SPATIAL]
    if image is None:
        # any library_id will do without an image; none makes squidpy ask for one
        where: dict[str, Any] = {"shape": None, "size": _point_size(spatial, ax), "library_id": ""}
    else:
        factors = {
            "tissue_hires_scalef": image.scale,
            "spot_diameter_fullres": image.diameter or _SPOT_OF_PITCH * pitch(spatial),
        }
        light.uns[KEYS.SPATIAL] = {_LIBRARY: {"images": {"hires": image.pixels}, "scalefactors": factors}}
        where = {"shape": "circle", "library_id": _LIBRARY, "img_res_key": "hires", "size": 1.3}
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
    if image is not None and options.get("crop_coord") is None:
        _crop(ax, spatial * image.scale)


def _crop(ax: Axes, pixels: np.ndarray) -> None:
    """Show the part of the image that has spots, with a margin: slides are mostly empty glass."""
    low, high = pixels.min(0), pixels.max(0)
    margin = 0.08 * max(*(high - low), 1.0)
    ax.set_xlim(low[0] - margin, high[0] + margin)
    ax.set_ylim(high[1] + margin, low[1] - margin)  # pixel rows count downwards


def _point_size(spatial: np.ndarray, ax: Axes) -> float:
    """Area of a point, in points squared, such that neighbours nearly touch."""
    box = ax.get_position()
    whole, dpi = ax.figure.bbox, ax.figure.dpi
    width, height = whole.width / dpi * box.width, whole.height / dpi * box.height
    extent = np.ptp(spatial, axis=0)
    extent[extent == 0] = 1.0
    per_inch = max(extent[0] / max(width, 1e-6), extent[1] / max(height, 1e-6))
    # "." is drawn at half of the nominal diameter
    return float(np.clip((1.7 * pitch(spatial) / per_inch * 72) ** 2, 0.5, 600.0))


def pitch(spatial: np.ndarray) -> float:
    """Usual distance of neighbours; spots at one place are one."""
    places = np.unique(spatial, axis=0)
    if len(places) < 2:
        return 1.0
    some = places[:: max(1, len(places) // 2000)]
    return float(np.median(cKDTree(places).query(some, k=2)[0][:, 1]))


def symmetric(values: pd.Series) -> Any:
    """Colours even around zero; one extreme spot must not bleach the rest."""
    from matplotlib.colors import Normalize

    end = end_of(values.to_numpy(dtype=np.float64))
    return Normalize(vmin=-end, vmax=end)


def end_of(values: np.ndarray) -> float:
    """End of a symmetric colour scale: the 99th percentile of absolute values that are not zero."""
    drawn = np.abs(values[np.isfinite(values) & (values != 0)])
    return float(np.percentile(drawn, 99)) if drawn.size else 1.0
