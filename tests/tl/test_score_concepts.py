from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import st_concepts as stc


def test_transfer_is_the_projection_in_the_units_of_definition(scored, other) -> None:
    adata, model = scored
    stc.tl.score_concepts(other, model, concepts=adata)
    stored = adata.uns["concepts"]
    expected = (model.embed(other).astype(np.float64) @ stored["vectors"].T - stored["center"]) / stored["scale"]
    np.testing.assert_allclose(other.obsm["concept_score"], expected, atol=1e-4)
    assert abs(other.obsm["concept_score"]["GCL"].std() - 1) > 1e-3  # not rescaled to this section


def test_scoring_the_same_spots_changes_nothing(scored) -> None:
    adata, model = scored
    again = adata.copy()
    stc.tl.score_concepts(again, model, concepts=adata.uns["concepts"])
    for slot in ("concept_score", "concept_members"):
        pd.testing.assert_frame_equal(again.obsm[slot], adata.obsm[slot])
    pd.testing.assert_frame_equal(again.varm["concept_gradient"], adata.varm["concept_gradient"])


def test_genes_in_another_order_are_matched_by_name(scored, other) -> None:
    adata, model = scored
    stc.tl.score_concepts(other, model, concepts=adata)
    order = np.random.default_rng(0).permutation(other.n_vars)
    shuffled = other[:, order].copy()
    stc.tl.score_concepts(shuffled, model, concepts=adata)
    np.testing.assert_array_equal(shuffled.obsm["concept_score"], other.obsm["concept_score"])
    pd.testing.assert_frame_equal(
        shuffled.varm["concept_gradient"].loc[other.var_names], other.varm["concept_gradient"]
    )


def test_genes_of_one_side_only(scored, other) -> None:
    """Missing genes count as zero (one warning, at the user's line); unknown genes have no gradient, nor saliency."""
    adata, model = scored
    part = other[:, 20:].copy()
    renamed = part.var_names[:5]
    part.var_names = [f"new{i}" for i in range(5)] + list(part.var_names[5:])
    with pytest.warns(UserWarning, match="25 of the 200 genes of the model are missing") as record:
        stc.tl.score_concepts(part, model, concepts=adata)
    assert {w.filename for w in record} == {__file__}
    zeroed = other.copy()
    counts = zeroed.X.toarray()
    counts[:, :20] = 0
    counts[:, zeroed.var_names.get_indexer(renamed)] = 0
    zeroed.X = counts
    stc.tl.score_concepts(zeroed, model, concepts=adata)
    np.testing.assert_allclose(part.obsm["concept_score"], zeroed.obsm["concept_score"], atol=1e-5)
    with pytest.warns(UserWarning, match="missing"):
        stc.tl.saliency(part, model)
    for slot in ("concept_gradient", "concept_saliency"):
        assert part.varm[slot].iloc[:5].isna().all().all()
        assert part.varm[slot].iloc[5:].notna().all().all()


def test_members_come_from_the_same_column_or_from_high_scores(scored, other) -> None:
    adata, model = scored
    stc.tl.score_concepts(other, model, concepts=adata)
    for name, column in other.obsm["concept_members"].items():
        np.testing.assert_array_equal(column, other.obs["layer"] == name)
    blind = other.copy()
    del blind.obs["layer"]
    stc.tl.score_concepts(blind, model, concepts=adata)
    assert "concept_members" not in blind.obsm
    pd.testing.assert_frame_equal(blind.obsm["concept_score"], other.obsm["concept_score"])
    # saliency and markers then rest on the spots that score above one standard deviation
    stc.tl.saliency(blind, model, method="gradient_x_input")
    chosen = stc.tl.concepts(
        blind, model, mask={"GCL": (blind.obsm["concept_score"]["GCL"] > 1).to_numpy()}, key_added="chosen", copy=True
    )
    chosen.uns["concepts"] = other.uns["concepts"]
    chosen.obsm["concept_score"] = blind.obsm["concept_score"]
    members = (blind.obsm["concept_score"] > 1).astype(np.int8)
    chosen.obsm["concept_members"] = members
    stc.tl.saliency(chosen, model, method="gradient_x_input")
    np.testing.assert_allclose(blind.varm["concept_saliency"], chosen.varm["concept_saliency"], rtol=1e-5)


@pytest.mark.parametrize("reference", ["GCL", ["GCL", "ONL"], "rest"])
def test_reference_of_the_definition_holds_in_the_other_section(trained, other, reference) -> None:
    adata, model = trained
    stc.tl.concepts(adata, model, groupby="layer", groups=["MCL"], reference=reference)
    stc.tl.score_concepts(other, model, concepts=adata)
    again = stc.tl.score_concepts(adata, model, concepts=adata, copy=True)
    pd.testing.assert_frame_equal(again.obsm["concept_members"], adata.obsm["concept_members"])
    outside = set(other.obs["layer"][other.obsm["concept_members"]["MCL"] == 0])
    assert outside == (
        {"GL", "OPL", "ONL", "GCL"} if reference == "rest" else {reference} if reference == "GCL" else set(reference)
    )


def test_labels_partly_missing_in_the_other_section(scored, other) -> None:
    adata, model = scored
    other.obs["layer"] = other.obs["layer"].where(np.arange(other.n_obs) % 2 == 0)
    stc.tl.score_concepts(other, model, concepts=adata)
    assert (other.obsm["concept_members"][1::2] == -1).all().all()
    assert (other.obsm["concept_members"][::2].sum(1) == 1).all()


@pytest.mark.parametrize("kind", ["bool", "boolean"])
def test_a_boolean_column_is_looked_up(scored, other, kind) -> None:
    adata, model = scored
    inside = other.obs["layer"] == "GCL"
    adata.obs["granular"] = (adata.obs["layer"] == "GCL").to_numpy(dtype=bool)
    other.obs["granular"] = pd.array(inside.to_numpy(), dtype=kind)
    if kind == "boolean":
        other.obs.loc[other.obs_names[0], "granular"] = pd.NA
    stc.tl.concepts(adata, model, groupby="granular")
    stc.tl.score_concepts(other, model, concepts=adata)
    found = other.obsm["concept_members"]["granular"].to_numpy()
    first = 1 if kind == "boolean" else 0
    np.testing.assert_array_equal(found[first:], inside.to_numpy()[first:].astype(int))
    assert found[0] == (-1 if first else int(inside.iloc[0]))


def test_numbered_layers_with_gaps_are_looked_up(scored, other) -> None:
    adata, model = scored
    adata.obs["number"] = adata.obs["layer"].cat.codes.to_numpy().astype(int)
    other.obs["number"] = other.obs["layer"].cat.codes.to_numpy().astype(float)  # as pandas reads them beside gaps
    other.obs.loc[other.obs_names[:5], "number"] = np.nan
    stc.tl.concepts(adata, model, groupby="number")
    stc.tl.score_concepts(other, model, concepts=adata)
    found = other.obsm["concept_members"]
    assert (found.iloc[:5] == -1).all().all()
    np.testing.assert_array_equal(found["2"].iloc[5:], (other.obs["number"].iloc[5:] == 2).astype(int))


def test_concepts_of_another_model_name_both_fingerprints(scored, untrained) -> None:
    adata, model = scored
    _, another = untrained
    assert another.fingerprint != model.fingerprint
    both = f"{model.fingerprint}, but model {another.fingerprint}"
    for call in (
        lambda: stc.tl.score_concepts(adata, another, concepts=adata),
        lambda: stc.tl.saliency(adata, another),
        lambda: stc.tl.saliency_map(adata, another, concept="GCL", genes=adata.var_names[:1]),
    ):
        with pytest.raises(ValueError, match=both):
            call()


def test_a_model_from_disk_is_the_same_model(scored, other, tmp_path) -> None:
    adata, model = scored
    model.save(tmp_path / "m.stc")
    loaded = stc.SpotVAE.load(tmp_path / "m.stc")
    stc.tl.score_concepts(other, loaded, concepts=adata)
    direct = stc.tl.score_concepts(other, model, concepts=adata, copy=True)
    np.testing.assert_array_equal(other.obsm["concept_score"], direct.obsm["concept_score"])


def test_transfer_reaches_a_section_of_other_depth(scored, other) -> None:
    from sklearn.metrics import roc_auc_score

    adata, model = scored
    rng = np.random.default_rng(0)
    other.X.data = rng.binomial(other.X.data.astype(int), 0.5).astype(np.float32)
    other.X.eliminate_zeros()
    stc.tl.score_concepts(other, model, concepts=adata)
    for name in ("ONL", "GL", "GCL"):
        assert roc_auc_score(other.obs["layer"] == name, other.obsm["concept_score"][name]) > 0.85
