"""Every notebook runs from a clean kernel to its last cell, with fewer genes or epochs than it was committed with."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbmake.nb_run import NotebookRun

from st_concepts import datasets

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
TIMEOUT = 300  # seconds a cell
# what is written in a notebook, once, and what stands there in a test: the cells are the same, the fits are shorter
QUICKER = {
    "01_mouse_olfactory_bulb": {"min_cells=20)": "min_cells=150)"},
    "02_markers_from_five_spots": {"min_cells=20)": "min_cells=150)", "model.fit(": "model.fit(max_epochs=3, "},
    "03_paper_genes_as_images": {
        "min_cells=20)": "min_cells=100)",
        "stc.GeneVAE(adata, ": "stc.GeneVAE(adata, channels=(8, 8), hidden=(32,), ",
        "model.fit(": "model.fit(max_epochs=3, ",
    },
    "04_faces": {".fit(images[train], ": ".fit(images[train], max_epochs=3, "},
    "05_spatialdata": {
        ".sum(0)).ravel() >= 20]": ".sum(0)).ravel() >= 150]",
        ".fit(progress": ".fit(max_epochs=3, progress",
    },
}


def quicker(path: Path, folder: Path) -> Path:
    """A copy with the changes named above; one that no longer fits its notebook is an error."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for old, new in QUICKER[path.stem].items():
        (cell,) = (cell for cell in cells if old in cell.source)
        assert cell.source.count(old) == 1
        cell.source = cell.source.replace(old, new)
    nbformat.write(notebook, folder / path.name)
    return folder / path.name


@pytest.mark.real_data
@pytest.mark.filterwarnings("default")  # those of the notebook machinery; the kernel has filters of its own
@pytest.mark.parametrize("path", [pytest.param(p, id=p.stem, marks=pytest.mark.xdist_group(p.stem)) for p in NOTEBOOKS])
def test_runs(path: Path, tmp_path: Path) -> None:
    if "mouse_olfactory_bulb(" in path.read_text(encoding="utf-8") and not datasets.bulb_at_hand():
        pytest.skip(
            f"{path.name} shows the real olfactory bulb, which is not on this machine: point ST_CONCEPTS_DATA at a "
            "folder with mob/, or load it once with st_concepts.datasets.mouse_olfactory_bulb"
        )
    result = NotebookRun(quicker(path, tmp_path), TIMEOUT).execute()
    if result.error is not None:
        pytest.fail(f"cell {result.error.failing_cell_index}: {result.error.summary}\n{result.error.trace}")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_with_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert all(cell.execution_count for cell in cells)
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    outputs = str([cell.outputs for cell in cells])
    assert "Traceback" not in outputs
    # no path of the machine that it was executed on
    assert not re.search(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|var)/", outputs)
    assert path.stat().st_size < 3_000_000
