"""Independent knowledge about the layers of the olfactory bulb, as small tables with a source in every row."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import pandas as pd

TABLES = ("mob_stahl2016", "mob_tepe2018", "mob_literature")

# where the cell bodies (of OSNs: the axons) lie; vessels run through all layers
_LAYER_OF_CELL_TYPE = {"OSNs": "ONL", "PGC": "GL", "EPL-IN": "OPL", "M/TC": "MCL", "GC": "GCL"}


def bulb_markers() -> pd.DataFrame:
    """Known markers of layers and cell types of the mouse olfactory bulb, for checking what a model found.

    Returns
    -------
    DataFrame, one row per gene, label and source, with the columns

    - ``gene``: mouse gene symbol,
    - ``label``: the layer or cell type as the source names it,
    - ``kind``: ``"layer"`` or ``"cell type"``,
    - ``layer``: ONL, GL, OPL, MCL or GCL; for cell types the layer of their cell bodies (for olfactory sensory neurons
      that of their axons); missing for cells that are in no layer in particular,
    - ``table``: name of the table, ``data/markers/<table>.tsv``,
    - ``source``: publication.

    Raises
    ------
    FileNotFoundError
        If the tables are neither in the installed package nor in the checkout.

    Notes
    -----
    Genes of a cell type are not confined to one layer: tufted cells, for one, also lie in the glomerular and outer
    plexiform layers. The tables are for set-wise checks.

    Examples
    --------
    >>> import st_concepts as stc
    >>> markers = stc.datasets.bulb_markers()
    >>> sorted(set(markers.loc[markers["layer"] == "ONL", "gene"]))
    ['Fam213b', 'Gng13', 'Kctd12', 'Npy', 'Omp', 'S100a5']
    """
    folder = _folder()
    parts = []
    for name in TABLES:
        with (folder / f"{name}.tsv").open(encoding="utf-8") as handle:
            part = pd.read_csv(handle, sep="\t", dtype=str)
        part.insert(3, "table", name)
        parts.append(part)
    markers = pd.concat(parts, ignore_index=True)
    is_layer = markers["kind"] == "layer"
    markers.insert(3, "layer", markers["label"].where(is_layer, markers["label"].map(_LAYER_OF_CELL_TYPE)))
    return markers


def _folder() -> Traversable:
    """The tables inside an installed wheel, or ``data/markers`` of the checkout."""
    installed = files("st_concepts.datasets") / "markers"
    checkout = Path(__file__).resolve().parents[2] / "data" / "markers"
    for folder in (installed, checkout):
        if (folder / f"{TABLES[0]}.tsv").is_file():
            return folder
    raise FileNotFoundError(
        f"The marker tables are neither in {installed} nor in {checkout}. Install the package again: pip install ."
    )
