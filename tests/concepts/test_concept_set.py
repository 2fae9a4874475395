from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import st_concepts as stc
from st_concepts.concepts import ConceptSet, read_concepts, score_frame


@pytest.fixture
def made() -> ConceptSet:
    rng = np.random.default_rng(0)
    return ConceptSet(
        names=["L1", "L2/3"],
        vectors=rng.normal(size=(2, 4)).astype(np.float32),
        center=np.array([0.5, -1.0]),
        scale=np.array([2.0, 3.0]),
        model="abc",
        params={"kind": "groupby", "layer": ""},
        n_labelled=np.array([3, 4]),
    )


def test_score_by_hand(made: ConceptSet) -> None:
    z = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    expected = [
        [
            (sum(z[i, d].item() * made.vectors[j, d].item() for d in range(4)) - made.center[j]) / made.scale[j]
            for j in range(2)
        ]
        for i in range(5)
    ]
    np.testing.assert_allclose(made.score(z), expected, rtol=1e-10)
    moved = made.score(z + np.float32(1)) - made.score(z)
    np.testing.assert_allclose(moved, np.tile(made.directions.sum(1), (5, 1)), rtol=1e-5)


def test_slots_have_safe_labels_and_either_name_is_understood(made: ConceptSet) -> None:
    assert made.labels == ["L1", "L2_3"]
    assert made.index("L2/3") == made.index("L2_3") == 1
    frame = score_frame(made, np.zeros((2, 4), dtype=np.float32), pd.Index(["a", "b"]))
    assert frame.columns.tolist() == ["L1", "L2_3"]
    assert (frame.dtypes == np.float32).all()
    with pytest.raises(KeyError, match="'L9' is unknown; there are: L1, L2/3"):
        made.index("L9")


def test_another_model_is_refused_by_name(made: ConceptSet) -> None:
    made.check_model("abc")
    with pytest.raises(ValueError, match=r"made with model abc, but model def was given"):
        made.check_model("def")


def test_there_and_back(made: ConceptSet) -> None:
    back = ConceptSet.from_uns(made.to_uns())
    assert (back.names, back.model, back.params) == (made.names, made.model, made.params)
    for field in ("vectors", "center", "scale", "n_labelled"):
        np.testing.assert_array_equal(getattr(back, field), getattr(made, field))


def test_read_from_everywhere(made: ConceptSet) -> None:
    adata = AnnData(np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(KeyError, match=r"uns\['concepts'\] is missing: run stc.tl.concepts"):
        read_concepts(adata)
    adata.uns["concepts"] = made.to_uns()
    for source in (adata, adata.uns["concepts"], made):
        assert read_concepts(source).names == made.names
    with pytest.raises(ValueError, match=r"not a set of concepts: it lacks .*vectors"):
        read_concepts({"names": ["a"]})


def test_what_the_model_is_is_kept(tmp_path: Path, simulated: AnnData) -> None:
    model = stc.SpotVAE(simulated, n_latent=5, batch_key="section", seed=3).fit(max_epochs=2, progress=False)
    stc.tl.concepts(simulated, model, groupby="layer")
    simulated.write_h5ad(tmp_path / "a.h5ad")
    stc.io.write(simulated, tmp_path / "a.zarr")
    for stored in (simulated, anndata.read_h5ad(tmp_path / "a.h5ad"), anndata.read_zarr(tmp_path / "a.zarr")):
        info = read_concepts(stored).model_info
        assert info["kind"] == "SpotVAE"
        assert (info["n_genes"], info["n_latent"], info["seed"], info["epochs"]) == (simulated.n_vars, 5, 3, 2)
        assert (info["section_key"], info["init"], info["fingerprint"]) == ("section", "svd", model.fingerprint)
        assert info["version"] == stc.__version__
        assert info["held_out_nll"] == pytest.approx(model.history["validation_nll"].min())
        assert info["held_out_nll"] == pytest.approx(model.history["validation_nll"][info["best_epoch"]])
        assert "layer" not in info  # counts in X: nothing to name
        assert {type(v) for v in info.values()} <= {str, int, float}
    del simulated.uns["concepts"]["model_info"]  # as an earlier version left it
    assert read_concepts(simulated).model_info == {}
