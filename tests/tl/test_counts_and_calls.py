"""Where counts are read from, spots without counts, names of any type, a second set of concepts, all slots removed."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

import st_concepts as stc
from st_concepts._results import found_slots
from st_concepts.cli._pipeline import drop_results

pytestmark = pytest.mark.filterwarnings("ignore:.*spots have no counts:UserWarning")


def _empty(adata: AnnData, rows: list[int]) -> AnnData:
    x = adata.X.toarray()
    x[rows] = 0
    adata.X = sp.csr_matrix(x)
    return adata


def test_spots_without_counts_are_at_zero_everywhere(trained, other) -> None:
    adata, model = trained
    stc.tl.concepts(adata, model, groupby="layer")
    _empty(other, [0, 7])
    stc.tl.embed(other, model)
    np.testing.assert_array_equal(other.obsm["X_stc"], model.embed(other))
    assert not other.obsm["X_stc"][[0, 7]].any()
    assert other.obsm["X_stc"][1].any()
    assert model.encode(stc_zero(model)).abs().max() > 0  # the encoder itself does not put zeros at 0
    stc.tl.score_concepts(other, model, concepts=adata)
    made = adata.uns["concepts"]
    expected = (model.embed(other) @ made["vectors"].T.astype(np.float64) - made["center"]) / made["scale"]
    np.testing.assert_allclose(other.obsm["concept_score"].to_numpy(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        other.obsm["concept_score"].iloc[7], -made["center"] / made["scale"], rtol=1e-5, atol=1e-5
    )


def stc_zero(model):
    import torch

    return torch.zeros(1, len(model.var_names))


def test_a_layer_that_is_missing_is_said_and_x_is_read(simulated, other) -> None:
    simulated.layers["counts"] = simulated.X.copy()
    simulated.X = simulated.X.copy() * 0.5
    model = stc.SpotVAE(simulated, layer="counts", n_latent=4).fit(max_epochs=0, progress=False)
    own = model.embed()
    bare = AnnData(simulated.layers["counts"].copy(), simulated.obs, simulated.var)
    with pytest.warns(UserWarning, match=r"trained on adata.layers\['counts'\], which this AnnData lacks") as said:
        stc.tl.embed(bare, model)
    assert said[0].filename == __file__
    np.testing.assert_array_equal(bare.obsm["X_stc"], own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"adata\.X holds non-integer"):
            stc.tl.embed(AnnData(simulated.X, simulated.obs, simulated.var), model)


def test_messages_say_where_the_counts_are(simulated) -> None:
    counts = simulated.X.copy()
    simulated.raw = simulated.copy()
    simulated.X = counts.log1p()
    with pytest.raises(ValueError, match=r"adata = adata.raw.to_adata\(\).*--raw"):
        stc.SpotVAE(simulated)
    simulated.layers["mine"] = counts
    with pytest.raises(ValueError, match=r"adata.layers\['mine'\] holds counts: pass layer='mine'"):
        stc.SpotVAE(simulated)
    simulated.layers["half"] = counts * 0.5
    with pytest.raises(ValueError, match="pass layer='mine'"):
        stc.SpotVAE(simulated, layer="half")
    del simulated.layers["mine"], simulated.raw
    with pytest.raises(ValueError, match=r"adata.layers\['counts'\] = adata.X.copy"):
        stc.SpotVAE(simulated)


def test_a_minified_section_says_so(trained) -> None:
    adata, model = trained
    adata.uns["_scvi_adata_minify_type"] = "latent_posterior_parameters"
    with pytest.raises(ValueError, match="minified by scvi-tools"):
        stc.tl.embed(adata, model)
    adata.uns["_scvi_adata_minify_type"] = "latent_posterior_parameters_with_counts"
    stc.tl.embed(adata, model)


def test_numbers_are_names(trained) -> None:
    adata, model = trained
    adata.obs["cluster"] = adata.obs["layer"].cat.codes.astype(int)
    stc.tl.concepts(adata, model, groupby="cluster", reference=0)
    assert list(adata.obsm["concept_score"]) == ["1", "2", "3", "4"]
    stc.tl.concepts(adata, model, groupby="cluster", groups=np.array([0, 1]))
    assert list(adata.obsm["concept_score"]) == ["0", "1"]
    stc.tl.concepts(adata, model, groupby="cluster")
    stc.tl.rank_genes_concepts(adata, concepts=0, null="none")
    expected = stc.get.markers(adata, "0")
    for name in (0, np.int64(0), 0.0):
        assert stc.get.markers(adata, name).equals(expected)
    stc.tl.saliency(adata, model, concepts=2)
    assert list(adata.varm["concept_saliency"]) == ["2"]


def test_one_name_is_not_read_letter_by_letter(scored) -> None:
    adata, model = scored
    stc.tl.rank_genes_concepts(adata, concepts="GCL", null="none")
    assert adata.uns["rank_genes_concepts"]["names"].dtype.names == ("GCL",)
    with pytest.raises(KeyError, match=r"there are: ONL, GL, OPL, MCL, GCL. Did you mean 'GCL'"):
        stc.tl.rank_genes_concepts(adata, concepts="gcl", null="none")
    gene = str(adata.var_names[3])
    stc.tl.concepts(adata, model, genes={"mine": gene}, key_added="seeds")
    assert list(adata.obsm["seeds_score"]) == ["mine"]
    with pytest.raises(KeyError, match=f"Did you mean '{gene}'"):
        stc.tl.concepts(adata, model, genes=gene.lower() if gene != gene.lower() else gene.upper())


def test_true_names_and_safe_labels_both_work(trained) -> None:
    adata, model = trained
    adata.obs["layer"] = adata.obs["layer"].cat.rename_categories({"GCL": "L2/3"})
    stc.tl.concepts(adata, model, groupby="layer")
    stc.tl.saliency(adata, model)
    stc.tl.rank_genes_concepts(adata, null="none")
    table = stc.get.markers(adata, "L2/3")
    assert table.equals(stc.get.markers(adata, "L2_3"))
    assert table["saliency"].notna().all()
    for name in ("L2/3", "L2_3"):
        assert stc.pl.concept_scores(adata, name, show=False).get_title() == "L2/3"
        assert "mainplot_ax" in stc.pl.markers(adata, name, n=2, show=False)


def test_the_map_is_drawn_by_position(scored) -> None:
    adata, model = scored
    gene = str(adata.var_names[0])
    stc.tl.saliency_map(adata, model, concept="GCL", genes=gene)
    titles = [
        stc.pl.saliency_map(adata, gene, "GCL", show=False).get_title(),
        stc.pl.saliency_map(adata, gene, show=False).get_title(),
        stc.pl.saliency_map(adata, concept="GCL", genes=gene, show=False).get_title(),
    ]
    assert titles == [f"{gene} for GCL"] * 3


def test_a_second_set_reads_and_writes_its_own_slots(scored) -> None:
    adata, model = scored
    stc.tl.saliency(adata, model)
    stc.tl.rank_genes_concepts(adata, null="none")
    first = stc.get.markers(adata)
    kept = adata.varm["concept_saliency"].copy()
    gene = str(adata.var_names[0])
    # the same names as in the first set, other vectors
    stc.tl.concepts(adata, model, genes={"GCL": [gene], "ONL": [str(adata.var_names[60])]}, key_added="seeds")
    with pytest.raises(KeyError, match="rank_genes_seeds"):
        stc.get.markers(adata, "GCL", key="seeds")
    stc.tl.rank_genes_concepts(adata, concepts_key="seeds", null="none")
    assert "saliency" not in stc.get.markers(adata, "GCL", key="seeds")  # that of the first set is not its own
    stc.tl.saliency(adata, model, concepts_key="seeds")
    table = stc.get.markers(adata, "GCL", key="seeds")
    assert table.equals(stc.get.markers(adata, "GCL", key="rank_genes_seeds"))
    own = adata.varm["seeds_saliency"]["GCL"].reindex(table["names"]).to_numpy()
    np.testing.assert_array_equal(table["saliency"].to_numpy(), own)
    stc.tl.saliency_map(adata, model, concept="GCL", genes=gene, concepts_key="seeds")
    assert "concept_saliency_GCL" not in adata.layers
    assert stc.pl.saliency_map(adata, gene, key="seeds", show=False).get_title() == f"{gene} for GCL"
    assert stc.get.markers(adata).equals(first)
    assert adata.varm["concept_saliency"].equals(kept)


def _slots(adata: AnnData) -> dict[str, list[str]]:
    return {part: sorted(map(str, getattr(adata, part))) for part in ("obs", "var", "obsm", "varm", "layers", "uns")}


def test_every_result_is_dropped_and_nothing_else(trained) -> None:
    adata, model = trained
    adata.uns["concepts_of_mine"], adata.obsm["concept_scores_of_mine"] = {"a": 1}, np.zeros((adata.n_obs, 2))
    before = _slots(adata)
    gene = str(adata.var_names[0])
    stc.tl.embed(adata, model)
    for key, options in (("concepts", {"groupby": "layer"}), ("seeds", {"genes": {"a/b": [gene]}})):
        stc.tl.concepts(adata, model, key_added=key, **options)
        stc.tl.saliency(adata, model, concepts_key=key)
        name = str(adata.uns[key]["names"][0])
        stc.tl.saliency_map(adata, model, concept=name, genes=gene, concepts_key=key)
        stc.tl.rank_genes_concepts(adata, concepts_key=key, n_null=2)
    stc.tl.rank_genes_concepts(adata, null="none", key_added="my_ranking")
    stc.tl.saliency(adata, model, key_added="my_saliency")
    stc.tl.concepts(adata, model, mask=adata.obs["layer"] == "GCL", key_added="m", score_key="my_scores")
    other = adata.copy()
    stc.tl.score_concepts(other, model, concepts=adata)
    stc.tl.cross_fit(
        adata, "layer", n_folds=2, model_options={"n_latent": 4}, fit_options={"max_epochs": 0, "progress": False}
    )
    assert _slots(adata) != before
    assert len(drop_results(adata)) > 20
    assert _slots(adata) == before
    assert found_slots(adata) == []
    drop_results(other)
    assert _slots(other) == before


def test_results_of_genes_are_dropped(simulated) -> None:
    before = _slots(simulated)
    simulated.uns |= {"gene_concepts": {}, "spatial_saliency": {"method": "rectgrad"}}
    simulated.uns["my_genes"] = dict.fromkeys(("names", "labels", "vectors", "genes", "tables", "model", "params"), "x")
    for slot in ("concept_pattern", "spatial_saliency", "spatial_saliency_GCL"):
        simulated.obsm[slot] = np.zeros((simulated.n_obs, 1))
    assert len(drop_results(simulated)) == 6
    assert _slots(simulated) == before


def test_a_loaded_model_takes_data(trained, other, tmp_path) -> None:
    adata, model = trained
    model.save(tmp_path / "m.stc")
    loaded = stc.SpotVAE.load(tmp_path / "m.stc", adata, device="cpu")
    np.testing.assert_array_equal(loaded.embed(), model.embed())
    np.testing.assert_array_equal(stc.SpotVAE.load(tmp_path / "m.stc", other).embed(), model.embed(other))
    with pytest.raises(ValueError, match="Only 20 of the 200 genes"):
        stc.SpotVAE.load(tmp_path / "m.stc", other[:, :20].copy())
    with pytest.raises(TypeError, match="is an AnnData"):
        stc.SpotVAE.load(tmp_path / "m.stc", "cpu")
    other.X = other.X * 0.5
    with pytest.raises(ValueError, match="non-integer"):
        stc.SpotVAE.load(tmp_path / "m.stc", other)
