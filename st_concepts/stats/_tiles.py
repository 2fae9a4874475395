"""Tiles: groups of neighbouring spots of one section, equal in size, used as pseudo-spots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from st_concepts.stats._graph import check_coords, section_codes

_MIN_SPOTS_PER_TILE = 4


def balanced_tiles(coords: ArrayLike, n_tiles: ArrayLike, sections: ArrayLike | None = None) -> NDArray[np.intp]:
    """Tile of each spot, intp: every section is cut into compact tiles whose sizes differ by at most one spot.

    The spots are halved across the longer side of their bounding box, again and again, like a k-d tree. The result
    depends on the coordinates and, for ties, on the order of the spots only. ``n_tiles`` is one number for all sections
    or one per section (sorted by label); tiles are numbered 0, 1, ... through the sections.

    Examples
    --------
    >>> import numpy as np
    >>> np.bincount(balanced_tiles(np.random.default_rng(0).normal(size=(10, 2)), 3)).tolist()
    [4, 3, 3]
    """
    xy = check_coords(coords)
    codes = section_codes(sections, len(xy))
    size = np.bincount(codes)
    wanted = np.broadcast_to(np.asarray(n_tiles), size.shape)
    if (wanted < 1).any() or (wanted > size).any():
        raise ValueError(f"n_tiles must lie between 1 and the spots per section {size.tolist()}; got {n_tiles!r}.")
    tile = np.empty(len(xy), dtype=np.intp)
    first = 0
    for code, number in enumerate(wanted.tolist()):
        rows = np.flatnonzero(codes == code)
        sizes = np.full(number, len(rows) // number)
        sizes[: len(rows) % number] += 1
        todo = [(rows, 0, number)]
        while todo:
            part, start, stop = todo.pop()
            if stop - start == 1:
                tile[part] = first + start
                continue
            middle = (start + stop) // 2
            side = int(np.ptp(xy[part], axis=0).argmax())
            order = part[np.lexsort((part, xy[part, 1 - side], xy[part, side]))]
            cut = int(sizes[start:middle].sum())
            todo += [(order[:cut], start, middle), (order[cut:], middle, stop)]
        first += number
    return tile


def tile_mean(tile: NDArray[np.intp]) -> sp.csr_array:
    """Sparse matrix ``(n_tiles, n_obs)`` that averages the spots of each tile."""
    size = np.bincount(tile)
    return sp.csr_array((1.0 / size[tile], (tile, np.arange(len(tile)))), shape=(len(size), len(tile)))


@dataclass(frozen=True)
class Units:
    """What is randomised: the spots themselves, or tiles of them where a section has too many.

    Attributes
    ----------
    sections
        Section of each unit, ``(n_units,)``.
    average
        ``(n_units, n_obs)`` averaging matrix of the tiles, or ``None``.
    number
        Units of each section.
    """

    sections: NDArray[np.intp]
    average: sp.csr_array | None
    number: NDArray[np.intp]

    @classmethod
    def of(cls, xy: NDArray[np.float64] | None, codes: NDArray[np.intp], exact_below: int, n_tiles: int) -> Units:
        """Of spots with these section codes; see `moran_null` for the limits.

        Raises
        ------
        ValueError
            Sections of one spot only, limits below 2, or too many spots and no coordinates to cut tiles with.
        """
        if exact_below < 2 or n_tiles < 2:
            raise ValueError(f"exact_below and n_tiles must be at least 2; got {exact_below} and {n_tiles}.")
        size = np.bincount(codes)
        if size.max(initial=0) < 2:
            raise ValueError("Every section has a single spot, so there is nothing to randomise; check `sections`.")
        shrink = len(size) ** (1 / 3)
        tiles = np.minimum(max(int(n_tiles / shrink), 2), np.maximum(size // _MIN_SPOTS_PER_TILE, 1))
        number = np.where(size <= max(exact_below / shrink, 2), size, tiles)
        if not (number < size).any():
            return cls(codes, None, number)
        if xy is None:
            raise ValueError(
                f"A section has {size.max()} spots, too many for an exact decomposition (limit {exact_below}); "
                "pass coords as well, so that tiles can be cut, or raise exact_below."
            )
        average = tile_mean(balanced_tiles(xy, number, codes))
        return cls(np.repeat(np.arange(len(size)), number), average, number)

    @property
    def randomised(self) -> list[NDArray[np.intp]]:
        """Units of each section that has several."""
        return [np.flatnonzero(self.sections == code) for code in np.flatnonzero(self.number >= 2)]
