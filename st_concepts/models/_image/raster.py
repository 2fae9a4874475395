"""From spots to pixels: the raster on which a gene becomes an image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp

_RESULTANT = 0.5  # a lattice shows where the positions, modulo its period, agree at least this well (1 is perfectly)
_SPOTS_A_PIXEL = 2.0  # for irregular positions: 1 - exp(-2), so 86% of the pixels inside the tissue hold a spot


@dataclass(frozen=True)
class Raster:
    """Which pixel each spot falls into.

    Attributes
    ----------
    shape
        ``(height, width)`` in pixels; row 0 is at the smallest y.
    pixel
        int64 ``(n_obs,)``: index of the pixel of each spot in the flattened image.
    pixel_size
        ``(x, y)`` extent of a pixel, in units of the positions.
    origin
        ``(x, y)`` position of the corner of pixel (0, 0).
    kind
        ``"square"`` (one pixel per lattice site), ``"hexagonal"`` (the same; every other row is shifted by half a
        pixel) or ``"irregular"`` (binned).
    coarsened
        How many lattice sites a pixel spans per axis; 1 unless ``max_side`` or ``pixel_size`` asked for larger pixels.
    """

    shape: tuple[int, int]
    pixel: np.ndarray
    pixel_size: tuple[float, float]
    origin: tuple[float, float]
    kind: Literal["square", "hexagonal", "irregular"]
    coarsened: float = 1.0

    def __repr__(self) -> str:
        r = self.report()
        return (
            f"Raster({self.shape[0]} x {self.shape[1]} pixels, {self.kind}, pixel {self.pixel_size[0]:.4g} x "
            f"{self.pixel_size[1]:.4g}; {len(self.pixel)} spots in {r['occupied_pixels']} pixels, "
            f"{r['spots_sharing_a_pixel']} of them share one)"
        )

    @property
    def mask(self) -> np.ndarray:
        """Boolean ``(height, width)``: pixels that hold a spot."""
        mask = np.zeros(self.shape[0] * self.shape[1], dtype=bool)
        mask[self.pixel] = True
        return mask.reshape(self.shape)

    def report(self) -> dict[str, Any]:
        """What was chosen, in plain values that anndata can store."""
        count = np.bincount(self.pixel, minlength=1)
        return {
            "height": self.shape[0],
            "width": self.shape[1],
            "kind": self.kind,
            "pixel_size_x": float(self.pixel_size[0]),
            "pixel_size_y": float(self.pixel_size[1]),
            "coarsened": float(self.coarsened),
            "occupied_pixels": int((count > 0).sum()),
            "spots_sharing_a_pixel": int(count[count > 1].sum()),
        }

    def to_pixels(self, values: sp.spmatrix) -> sp.csr_matrix:
        """Sum values over the spots of each pixel: ``(n, n_obs)`` to CSR ``(n, height * width)``, float32."""
        n = len(self.pixel)
        where = sp.csr_matrix(
            (np.ones(n, dtype=np.float32), (np.arange(n), self.pixel)), shape=(n, self.shape[0] * self.shape[1])
        )
        return sp.csr_matrix(values, dtype=np.float32) @ where

    def to_spots(self, images: np.ndarray) -> np.ndarray:
        """Value of each spot's pixel: ``(n, height, width)`` to ``(n, n_obs)``."""
        return images.reshape(len(images), -1)[:, self.pixel]

    def padded(self, shape: tuple[int, int]) -> Raster:
        """The same raster in the middle of a larger one (axes that are larger already stay)."""
        tall, wide = (max(a, b) for a, b in zip(self.shape, shape, strict=True))
        top, left = (tall - self.shape[0]) // 2, (wide - self.shape[1]) // 2
        y, x = np.divmod(self.pixel, self.shape[1])
        corner = self.origin[0] - left * self.pixel_size[0], self.origin[1] - top * self.pixel_size[1]
        return replace(self, shape=(tall, wide), pixel=(y + top) * wide + x + left, origin=corner)


def make_raster(
    positions: np.ndarray, *, pixel_size: float | tuple[float, float] | None = None, max_side: int = 80
) -> Raster:
    """Choose a raster for spots at ``positions`` ``(n_obs, 2)``, x and y in any unit.

    Square lattices (classic Spatial Transcriptomics, array coordinates or image pixels, jittered or not) and hexagonal
    ones (Visium) get one pixel per site, which for the former is the rounding of array coordinates of Brocki & Chung
    2019. Other positions are binned so that a pixel inside the tissue holds two spots on average. Lattices that are
    rotated against the axes count as irregular. ``pixel_size`` takes the place of the choice; pixels are enlarged until
    no side is longer than ``max_side``.

    Examples
    --------
    >>> xy = np.stack(np.meshgrid(np.arange(5), np.arange(4)), -1).reshape(-1, 2)
    >>> make_raster(xy)
    Raster(4 x 5 pixels, square, pixel 1 x 1; 20 spots in 20 pixels, 0 of them share one)
    """
    xy = np.asarray(positions, dtype=np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2 or not len(xy):
        raise ValueError(f"positions must be (n_obs, 2), got shape {xy.shape}.")
    if not np.isfinite(xy).all():
        bad = int((~np.isfinite(xy).all(1)).sum())
        raise ValueError(f"{bad} spots have NaN or infinite positions; remove them, or fix obsm['spatial'].")
    if max_side < 2:
        raise ValueError(f"max_side={max_side} must be at least 2.")
    sites = np.unique(xy, axis=0)
    if len(sites) < 2:
        raise ValueError("All spots have the same position; a raster needs at least two.")
    kind, pitch, phase = _lattice(sites)
    size = pitch
    if pixel_size is not None:
        size = np.broadcast_to(np.asarray(pixel_size, dtype=np.float64), 2).copy()
        if not (np.isfinite(size).all() and (size > 0).all()):
            raise ValueError(f"pixel_size={pixel_size} must be above zero.")
    extent = xy.max(0) - xy.min(0)
    if (np.floor(extent / size + 0.5) + 1 > max_side).any():
        size = size * (extent / size).max() / (max_side - 0.5)
    same = np.allclose(size, pitch)
    # on its own lattice a spot belongs in the middle of a pixel; otherwise pixels start at the first spot
    corner = phase - size / 2 if same else xy.min(0)
    index = np.floor((xy - corner) / size).astype(np.int64)
    first = index.min(0)
    index -= first
    shape = index.max(0) + 1
    return Raster(
        shape=(int(shape[1]), int(shape[0])),
        pixel=index[:, 1] * int(shape[0]) + index[:, 0],
        pixel_size=(float(size[0]), float(size[1])),
        origin=tuple(float(c) for c in corner + first * size),  # type: ignore[arg-type]  # two numbers
        kind=kind,
        coarsened=1.0 if same else float((size / pitch).max()),
    )


def _lattice(sites: np.ndarray) -> tuple[Literal["square", "hexagonal", "irregular"], np.ndarray, np.ndarray]:
    """Kind, extent ``(x, y)`` of the pixel of a site, and the middle ``(x, y)`` of one pixel."""
    from scipy.spatial import cKDTree

    distance = float(np.median(cKDTree(sites).query(sites, k=2)[0][:, 1]))
    some = sites[np.linspace(0, len(sites) - 1, min(len(sites), 4000)).astype(np.int64)]
    # jitter makes the nearest neighbour nearer than the pitch, so the window reaches further up than down
    x, y = (_period(some[:, i], 0.8 * distance, 1.3 * distance) for i in (0, 1))
    if min(x[2], y[2]) > _RESULTANT:
        return "square", np.array([x[0], y[0]]), np.array([x[1], y[1]])
    for axis in (0, 1):  # the axis along which every other row is shifted by half a pitch
        half = _period(some[:, axis], 0.4 * distance, 0.65 * distance)
        row = _period(some[:, 1 - axis], 0.7 * distance, 1.15 * distance)
        if min(half[2], row[2]) > _RESULTANT:
            # sites of both kinds of row sit a quarter of a pixel left or right of the middle of theirs
            pitch, middle = np.array([2 * half[0], row[0]]), np.array([half[1] + half[0] / 2, row[1]])
            return ("hexagonal", pitch, middle) if axis == 0 else ("hexagonal", pitch[::-1], middle[::-1])
    extent = np.maximum(sites.max(0) - sites.min(0), distance)
    side = max(math.sqrt(_SPOTS_A_PIXEL * float(extent.prod()) / len(sites)), distance)
    return "irregular", np.array([side, side]), sites.min(0) + side / 2


def _period(values: np.ndarray, low: float, high: float) -> tuple[float, float, float]:
    """Period between ``low`` and ``high`` at which values agree best, their position modulo it, and the resultant."""
    extent = float(np.ptp(values))
    n = int(np.clip(10 * extent * (1 / low - 1 / high), 50, 20_000))
    frequency = np.linspace(1 / high, 1 / low, n)
    centred = values - values.mean()
    # frequencies in blocks: a few thousand sites x a few thousand frequencies would be a large array
    sums = np.concatenate(
        [np.exp(2j * np.pi * np.outer(f, centred)).mean(1) for f in np.array_split(frequency, n // 50)]
    )
    best = int(np.abs(sums).argmax())
    period = 1 / float(frequency[best])
    phase = float(np.angle(sums[best])) / (2 * np.pi) * period
    site = np.round((centred - phase) / period)
    if np.ptp(site) > 0:  # the grid of frequencies is coarse; a line through the sites is not
        period, phase = (float(c) for c in np.polyfit(site, centred, 1))
    return period, phase + float(values.mean()), float(np.abs(sums[best]))
