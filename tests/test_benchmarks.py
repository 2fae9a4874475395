"""Benchmarks of false findings at tiny size, and that what they make up is what they say."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

import st_concepts as stc

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small sections of two tissues."""
    out = tmp_path / "sections"
    out.mkdir()
    for i, name in enumerate(("bulb_one", "other_one")):
        adata = stc.datasets.simulated_bulb(
            n_obs=150 + 30 * i, n_vars=120, n_markers=8, n_smooth=10, unlabelled=0.1, seed=i
        )
        adata.write_h5ad(out / f"{name}.h5ad")
    return out


def test_coordinates_are_laid_over_each_other(benchmark) -> None:
    module: ModuleType = benchmark("_sections")
    x, y = (v.ravel().astype(float) for v in np.meshgrid(np.arange(6), np.arange(9)))
    own = np.c_[x, y]
    # moved and stretched, each finds itself
    np.testing.assert_array_equal(module.laid_over(own, own * [7, 0.3] + [100, -5], 0), np.arange(54))
    # eight ways, all different, and half a turn is the last first
    ways = [tuple(module.laid_over(own, own, turn)) for turn in range(8)]
    assert len(set(ways)) == 8
    np.testing.assert_array_equal(ways[2], np.arange(54)[::-1])


def test_fields_have_their_length(benchmark) -> None:
    made = benchmark("made_up_labels")
    side = 24
    x, y = (v.ravel().astype(float) for v in np.meshgrid(np.arange(side), np.arange(side)))
    coords, rng = np.c_[x, y], np.random.default_rng(0)
    fields = np.stack([made.field(coords, 0.1, rng) for _ in range(150)])
    assert fields.mean() == pytest.approx(0, abs=0.1)
    assert fields.var() == pytest.approx(1, abs=0.1)
    apart = 3
    grid = fields.reshape(-1, side, side)
    length = 0.1 * (side - 1)
    found = np.mean(grid[:, :, apart:] * grid[:, :, :-apart])
    assert found == pytest.approx(np.exp(-0.5 * (apart / length) ** 2), abs=0.05)


def test_bands_hold_their_shares(benchmark) -> None:
    made = benchmark("made_up_labels")
    values = np.random.default_rng(0).normal(size=200)
    shares = np.array([0.5, 0.2, 0.3])
    codes = made.cut(values, shares)
    np.testing.assert_array_equal(np.bincount(codes), [100, 40, 60])
    assert values[codes == 0].max() < values[codes == 1].min()
    striped = made.stripes(np.random.default_rng(1).uniform(size=(200, 2)), shares, np.random.default_rng(2))
    np.testing.assert_allclose(np.bincount(striped), [100, 40, 60], atol=1)


def test_genes_without_pattern_have_rates_and_depths(benchmark) -> None:
    module = benchmark("transplant")
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(rng.poisson(np.outer(rng.uniform(20, 500, 150), rng.uniform(0, 2, 80))).astype(np.float32))
    made = module.without_pattern(counts, rng)
    assert made.shape == counts.shape
    for axis in (0, 1):
        a, b = (np.asarray(m.sum(axis)).ravel() for m in (counts, made))
        assert np.corrcoef(a, b)[0, 1] > 0.99
        assert b.sum() == pytest.approx(a.sum(), rel=0.02)


def test_made_up_labels(benchmark, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = benchmark("made_up_labels")
    options = ["--only", "bulb_one", "--seeds", "1", "--few", "5", "--kinds", "field 0.2", "another tissue"]
    made.main(["--sections", str(folder), "--start-only", "--json", str(tmp_path / "m.json"), *options])
    shown = capsys.readouterr().out
    assert "bulb_one: 150 spots" in shown
    content = json.loads((tmp_path / "m.json").read_text())
    rows = content["rows"]
    assert len(rows) == 2 * 2 * 4
    assert {row["method"] for row in rows} == {"ours, default", "ours, label", "ours, score", "Wilcoxon"}
    assert {row["labels"] for row in rows} == {"all", "5"}
    assert all(0 <= row["p < .05"] <= 1 and row["n lists"] == 5 for row in rows)


def test_transplant(benchmark, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = benchmark("transplant")
    module.main(["--sections", str(folder), "--seeds", "1", "--start-only", "--json", str(tmp_path / "t.json")])
    assert "All sections" in capsys.readouterr().out
    content = json.loads((tmp_path / "t.json").read_text())
    assert len(content["rows"]) == 2 * 2 * 4
    assert {row["from"] for row in content["rows"]} == {"", "bulb_one", "other_one"}
    # genes without pattern, label: 2 sections x 5 labels x about 100 genes
    calm = [r["p < .05"] for r in content["rows"] if r["genes"] == "no pattern" and r["method"] == "ours, label"]
    assert np.mean(calm) < 0.1


def test_sections_are_read_alike(benchmark, folder: Path) -> None:
    module = benchmark("_sections")
    adata = module.read(folder / "bulb_one.h5ad")
    ready = module.prepare("bulb_one", adata, "layer")
    assert ready.uns["labels"] == list(adata.obs["layer"].cat.categories)
    assert ready.obs["label"].isna().sum() == adata.obs["layer"].isna().sum()
    with pytest.raises(SystemExit, match="no column 'layers'"):
        module.prepare("bulb_one", adata, "layers")
    log = AnnData(adata.X.copy() * 0.5, obs=adata.obs, obsm=dict(adata.obsm))
    with pytest.raises(SystemExit, match="raw counts"):
        module.prepare("bulb_one", log, "layer")
