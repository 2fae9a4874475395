"""Tiles: groups of neighbouring spots of one section, equal in size, used as pseudo-spots."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from st_concepts.stats._graph import check_coords, section_codes


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
