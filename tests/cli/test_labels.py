"""Labels on the command line: words that mean missing, columns of label files, labels that cannot be used."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import st_concepts as stc
from st_concepts.cli import main


@pytest.fixture(scope="module")
def section() -> AnnData:
    return stc.datasets.simulated_bulb(n_obs=150, n_vars=120, n_markers=8, n_smooth=5, seed=2)


@pytest.fixture
def run(capsys, tmp_path):
    def call(adata: AnnData, *more: str | Path, out: str = "o.h5ad") -> tuple[int, str, str]:
        source = tmp_path / "i.h5ad"
        adata.write_h5ad(source)
        options = ["--groupby", "layer", "--out", tmp_path / out, "--max-epochs", "0", "--null", "none", *more]
        with pytest.raises(SystemExit) as stop:
            main(["run", str(source), *map(str, options)])
        text, err = capsys.readouterr()
        return stop.value.code, text, err

    return call


def test_words_that_mean_missing_are_said_once_and_kept_in_the_column(run, section, tmp_path):
    adata = section.copy()
    text = adata.obs["layer"].astype(str).to_numpy()
    text[::3] = "nan"
    adata.obs["layer"] = text
    code, _, err = run(adata)
    assert code == 0
    assert err.count("'nan' 50") == 1
    assert "--missing" in err
    result = ad.read_h5ad(tmp_path / "o.h5ad")
    assert "nan" not in result.obsm["concept_score"].columns
    assert result.obs["layer"].tolist() == text.tolist()
    code, _, err = run(adata, "--missing", "GCL, off tissue", "--missing", "ONL")
    assert code == 0
    found = set(ad.read_h5ad(tmp_path / "o.h5ad").obsm["concept_score"].columns)
    assert found == set(text) - {"GCL", "ONL"}


def test_the_column_of_a_label_file(run, section, tmp_path):
    adata = section.copy()
    del adata.obs["layer"]
    table = tmp_path / "t.csv"
    frame = pd.DataFrame({"ID": adata.obs_names, "coarse": "A", "fine": section.obs["layer"].astype(str).to_numpy()})
    frame.to_csv(table, index=False)
    code, _, err = run(adata, "--annotation", table)
    assert code == 2
    assert err.strip().endswith("Choose with --column: coarse, fine.")
    code, _, _ = run(adata, "--annotation", table, "--column", "fine")
    assert code == 0
    assert ad.read_h5ad(tmp_path / "o.h5ad").obs["layer"].astype(str).tolist() == frame["fine"].tolist()
    code, _, err = run(adata, "--column", "fine")
    assert code == 2
    assert "--annotation, which is not given" in err


@pytest.mark.parametrize(
    ("change", "out", "message"),
    [
        (lambda t: np.where(t == "GCL", "G\x01CL", t), "o.h5ad", "control character"),
        (lambda t: np.where(t == "GCL", "nan", "unknown"), "o.h5ad", "every spot is unlabelled ("),
        (lambda t: np.where(t == "GCL", "GCL", "unknown"), "o.h5ad", "at least two labels are needed ("),
        (lambda t: np.where(t == "GCL", "G: CL", t), "o.zarr", "colon"),
        (lambda t: [str(i / 7) for i in range(len(t))], "o.h5ad", "looks like names or measurements"),
    ],
)
def test_labels_that_cannot_be_used_are_one_line_before_the_fit(run, section, change, out, message):
    adata = section.copy()
    adata.obs["layer"] = change(adata.obs["layer"].astype(str).to_numpy())
    code, text, err = run(adata, out=out)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert message in err
    assert "model:" not in text
