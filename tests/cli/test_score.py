"""`st-concepts score`: concepts of one section on another."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import st_concepts as stc
from st_concepts.cli import main


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a section, its result and model, and another section."""
    folder = tmp_path_factory.mktemp("score")
    section = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, n_markers=10, unlabelled=0.2, seed=0)
    model = stc.SpotVAE(section, n_latent=6).fit(max_epochs=0, progress=False)
    stc.tl.concepts(section, model, groupby="layer", n_null=0)
    model.save(folder / "model.stc")
    section.write_h5ad(folder / "result.h5ad")
    stc.SpotVAE(section, n_latent=4).fit(max_epochs=0, progress=False).save(folder / "another.stc")
    stc.datasets.simulated_bulb(n_obs=150, n_vars=150, n_markers=10, seed=0).write_h5ad(folder / "other.h5ad")
    return folder


@pytest.fixture
def cli(capsys):
    def call(*argv: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in argv])
        return stop.value.code, *capsys.readouterr()

    return call


def _argv(made: Path, **options: Path) -> list[str | Path]:
    given = {"concepts": made / "result.h5ad", "model": made / "model.stc"} | options
    return ["score", made / "other.h5ad", *(x for name, value in given.items() for x in (f"--{name}", value))]


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_scores_and_labels_are_those_of_the_functions(cli, made, tmp_path, form) -> None:
    before = (made / "other.h5ad").read_bytes()
    out, labels = tmp_path / f"out.{form}", tmp_path / "labels.csv"
    code, said, err = cli(*_argv(made, out=out, labels=labels))
    assert (code, err) == (0, "")
    assert "labels: " in said
    assert (made / "other.h5ad").read_bytes() == before
    found = getattr(ad, f"read_{form}")(out)
    other, model = ad.read_h5ad(made / "other.h5ad"), stc.SpotVAE.load(made / "model.stc")
    stc.tl.score_concepts(other, model, concepts=ad.read_h5ad(made / "result.h5ad"))
    stc.tl.predict_labels(other, model)
    np.testing.assert_allclose(found.obsm["concept_score"], other.obsm["concept_score"], atol=1e-5)
    np.testing.assert_allclose(found.obsm["concept_probability"], other.obsm["concept_probability"], atol=1e-5)
    assert found.obs["concept_label"].tolist() == other.obs["concept_label"].tolist()
    table = pd.read_csv(labels)
    assert list(table) == ["spot", "label", "probability"]
    assert table["label"].tolist() == other.obs["concept_label"].tolist()


def test_what_cannot_be_is_said_in_one_line(cli, made, tmp_path) -> None:
    for options, said in (
        ({"out": tmp_path / "out.txt"}, "must end in .h5ad or .zarr"),
        ({"out": made / "other.h5ad"}, "never changed"),
        ({"out": made / "result.h5ad"}, "the file of --concepts, which is never changed"),
        ({"out": tmp_path / "o.h5ad", "labels": made / "model.stc"}, "--labels"),
        ({"out": tmp_path / "o.h5ad", "concepts": made / "other.h5ad"}, "holds no result"),
        ({"out": tmp_path / "o.h5ad", "model": made / "another.stc"}, "were made with model"),
    ):
        code, _, err = cli(*_argv(made, **options))
        assert code == 2
        assert err.count("\n") == 1, err
        assert said in err
    assert not list(tmp_path.iterdir())
