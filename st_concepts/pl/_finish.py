"""What every picture ends with: written to a file, shown, handed back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st_concepts._files import make_folder, whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# back ends that have no window: plt.show() would only warn
_WINDOWLESS = {"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"}


def new_axes(n: int, *, ncols: int, panel: tuple[float, float], keep: Sequence[int] | None = None) -> list[Axes]:
    """``n`` axes on a fresh figure, row by row; ``panel`` is the size of one in inches; ``keep`` leaves gaps."""
    import matplotlib.pyplot as plt

    ncols = max(1, min(ncols, n))
    nrows = -(-n // ncols)
    _, grid = plt.subplots(
        nrows, ncols, figsize=(panel[0] * ncols, panel[1] * nrows), layout="constrained", squeeze=False
    )
    kept = range(n) if keep is None else keep
    for j in set(range(grid.size)) - set(kept):
        grid.ravel()[j].remove()
    return [grid.ravel()[j] for j in kept]


def axes_for(ax: Any, n: int, **new: Any) -> tuple[list[Axes], bool]:
    """The user's axes, or those of `new_axes`, and whether they are our own."""
    return (new_axes(n, **new), True) if ax is None else (given_axes(ax, n), False)


def given_axes(ax: Any, n: int) -> list[Axes]:
    """The user's axes as a list; `ValueError` where their number does not fit."""
    axes = list(ax) if hasattr(ax, "__len__") else [ax]
    if len(axes) != n:
        raise ValueError(f"ax holds {len(axes)} axes, but there are {n} panels to draw; pass one for each.")
    return axes


def finish(figure: Any, name: str, *, show: bool | None, save: str | os.PathLike[str] | bool | None, own: bool) -> None:
    """Save and show as scanpy does, except that ``save`` is a path and taken as it is.

    ``save=True`` writes ``name`` below ``scanpy.settings.figdir``, and so does `None` for a figure of our own where
    ``scanpy.settings.autosave`` is set; a path without a suffix gets ``.png``. ``show=None`` follows
    ``scanpy.settings.autoshow`` for a figure of our own that is not saved. Only such a one is closed after saving.
    """
    import matplotlib.pyplot as plt
    import scanpy as sc

    if save is None and own:
        save = bool(sc.settings.autosave)
    if save:
        path = Path(sc.settings.figdir) / name if save is True else Path(save).expanduser()
        try:
            _write(figure, path if path.suffix else path.with_name(path.name + ".png"), dpi=_dpi())
        except (OSError, ValueError):
            if own:
                plt.close(figure)
            raise
    if show is None:
        show = bool(sc.settings.autoshow) and own and not save
    if show and plt.get_backend().lower() not in _WINDOWLESS:
        plt.show()
    if save and own:
        plt.close(figure)


def _dpi() -> float:
    """Resolution of saved pictures: ``savefig.dpi`` where it is set (by ``sc.set_figure_params``, say), or 150."""
    import matplotlib.pyplot as plt

    value = plt.rcParams["savefig.dpi"]
    return max(150.0, float(plt.rcParams["figure.dpi"])) if value == "figure" else float(value)


def _write(figure: Any, path: Path, *, dpi: float) -> None:
    make_folder(path.parent)
    kinds = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise ValueError(f"save={str(path)!r}: pictures can end in {', '.join(sorted('.' + k for k in kinds))}.")
    with whole_file(path) as temporary:
        # the ending of the temporary file may be shortened
        figure.savefig(temporary, dpi=dpi, bbox_inches="tight", format=path.suffix[1:].lower())
