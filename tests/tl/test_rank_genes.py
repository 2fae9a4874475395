from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy.stats import false_discovery_control, pearsonr, ttest_ind

import st_concepts as stc
from st_concepts._counts.expression import SideSums

LAYERS = ["ONL", "GL", "OPL", "MCL", "GCL"]
KEY = "rank_genes_concepts"


def _features(adata) -> np.ndarray:
    counts = adata.X.toarray().astype(np.float64)
    return np.log1p(counts / counts.sum(1, keepdims=True) * adata.uns["concepts"]["params"]["target_sum"])


def _residuals(adata) -> np.ndarray:
    counts = adata.X.toarray().astype(np.float64)
    mu = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    with np.errstate(invalid="ignore"):
        return np.where(mu > 0, np.minimum((counts - mu) / np.sqrt(mu), 5.0), 0.0)


def _by_gene(adata, name) -> pd.DataFrame:
    return stc.get.markers(adata, name).set_index("names").loc[adata.var_names]


# ---------------------------------------------------------------------------------------------- scanpy's contract


def test_scanpy_reads_it(scored) -> None:
    adata, _ = scored
    stc.tl.rank_genes_concepts(adata, n_null=20)
    frame = sc.get.rank_genes_groups_df(adata, group=None, key=KEY)
    assert list(frame.columns) == ["group", "names", "scores", "logfoldchanges", "pvals", "pvals_adj"]
    assert len(frame) == 5 * adata.n_vars
    for name in LAYERS:
        part = frame[frame["group"] == name]
        assert set(part["names"]) == set(adata.var_names)
        assert part["scores"].is_monotonic_decreasing
    record = adata.uns[KEY]
    assert record["names"].dtype.names == tuple(LAYERS)
    kinds = {f: record[f].dtype["ONL"].str[1:] for f in ("scores", "logfoldchanges", "pvals", "pvals_adj")}
    assert kinds == {"scores": "f4", "logfoldchanges": "f4", "pvals": "f8", "pvals_adj": "f8"}
    assert record["params"]["groupby"] == "layer"
    adata.X = np.log1p(adata.X)
    axes = sc.pl.rank_genes_groups_dotplot(adata, key=KEY, n_genes=3, dendrogram=False, show=False)
    assert {t.get_text() for t in axes["mainplot_ax"].get_yticklabels()} == set(LAYERS)
    plt.close("all")


def test_concepts_without_a_column_get_one_for_scanpys_plots(trained) -> None:
    adata, model = trained
    stc.tl.concepts(adata, model, vectors={"up": np.eye(6)[0], "down": -np.eye(6)[0]})
    stc.tl.rank_genes_concepts(adata, n_null=0)
    assert adata.uns[KEY]["params"]["groupby"] == "concept_group"
    score = adata.obsm["concept_score"]
    expected = np.where(score["up"] > 1, "up", np.where(score["down"] > 1, "down", "rest"))
    assert adata.obs["concept_group"].astype(str).tolist() == expected.tolist()


def test_some_concepts_only(scored) -> None:
    adata, _ = scored
    every = stc.tl.rank_genes_concepts(adata, n_null=0, copy=True)
    stc.tl.rank_genes_concepts(adata, concepts=["MCL"], n_null=0)
    assert adata.uns[KEY]["names"].dtype.names == ("MCL",)
    pd.testing.assert_frame_equal(stc.get.markers(adata, "MCL"), stc.get.markers(every, "MCL"))


# ---------------------------------------------------------------------------------------------- the figures in it


def test_labels_rank_by_welch_and_test_by_correlation_of_residuals(scored) -> None:
    adata, _ = scored
    stc.tl.rank_genes_concepts(adata, target="label", null="none")
    x = _residuals(adata)
    live = x.std(0) > 0
    for name in LAYERS:
        frame, inside = _by_gene(adata, name), (adata.obs["layer"] == name).to_numpy()
        welch = np.where(live, ttest_ind(x[inside], x[~inside], equal_var=False).statistic, 0.0)
        np.testing.assert_allclose(frame["scores"], welch, rtol=1e-3, atol=1e-3)
        p = [pearsonr(column, inside.astype(float))[1] if column.std() else 1.0 for column in x.T]
        np.testing.assert_allclose(frame["pvals"], p, rtol=1e-3, atol=1e-12)
        np.testing.assert_allclose(frame["pvals_adj"], false_discovery_control(frame["pvals"]), rtol=1e-6)


def test_fold_changes_and_shares_by_hand(scored) -> None:
    adata, _ = scored
    stc.tl.rank_genes_concepts(adata, n_null=0)
    linear, seen = np.expm1(_features(adata)), adata.X.toarray() > 0
    inside = (adata.obs["layer"] == "OPL").to_numpy()
    frame = stc.get.markers(adata, "OPL").set_index("names").loc[adata.var_names]
    lfc = np.log2((linear[inside].mean(0) + 1 / 300) / (linear[~inside].mean(0) + 1 / 300))
    np.testing.assert_allclose(frame["logfoldchanges"], lfc, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(adata.varm[f"{KEY}_lfc"]["OPL"], lfc, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(frame["pct_in"], seen[inside].mean(0))
    np.testing.assert_allclose(frame["pct_out"], seen[~inside].mean(0))


@pytest.mark.parametrize("target", ["label", "auto"])
def test_tables_in_varm_agree_with_the_records(scored, target) -> None:
    adata, _ = scored
    stc.tl.rank_genes_concepts(adata, n_null=50, target=target)
    q_all = false_discovery_control(adata.varm[f"{KEY}_pval"].to_numpy().ravel()).reshape(-1, 5)
    np.testing.assert_allclose(adata.varm[f"{KEY}_qval_all"], q_all, rtol=1e-6)
    for name in LAYERS:
        frame = stc.get.markers(adata, name).set_index("names").loc[adata.var_names]
        for table, field in (("pval", "pvals"), ("qval", "pvals_adj")):
            np.testing.assert_array_equal(adata.varm[f"{KEY}_{table}"][name], frame[field])
        if target == "auto":  # a gene is a marker of the layer only as far as the layer is one
            continue
        z, p = adata.varm[f"{KEY}_z"][name], adata.varm[f"{KEY}_pval_greater"][name]
        live = z != 0  # a gene that does not vary has p-values of 1
        np.testing.assert_allclose(
            np.where(z > 0, 2 * p, 2 * (1 - p))[live], frame["pvals"][live], rtol=1e-4, atol=1e-9
        )


@pytest.mark.parametrize("null", ["moran", "permutation"])
def test_pvalues_follow_the_copies_of_the_null(scored, null) -> None:
    adata, _ = scored
    stc.tl.rank_genes_concepts(adata, target="label", null=null, n_null=999, seed=1)
    closed, counted = adata.varm[f"{KEY}_pval"], adata.varm[f"{KEY}_pval_empirical"]
    assert counted.min().min() >= 1 / 1000
    moderate = (closed > 0.1).to_numpy()
    assert moderate.sum() > 100
    assert np.abs(closed.to_numpy() - counted.to_numpy())[moderate].mean() < 0.04


def test_spatial_null_is_milder_on_smooth_genes(scored) -> None:
    adata, _ = scored
    smooth = (adata.var["kind"] == "smooth").to_numpy()
    p = {}
    for null in ("moran", "none"):
        stc.tl.rank_genes_concepts(adata, target="label", null=null, n_null=0)
        p[null] = adata.varm[f"{KEY}_pval"].to_numpy()[smooth]
    assert (p["none"] < 0.05).mean() > 2 * (p["moran"] < 0.05).mean()


def test_planted_markers_lead_the_list(scored) -> None:
    adata, _ = scored
    stc.tl.rank_genes_concepts(adata)
    for name in LAYERS:
        planted = set(adata.var_names[adata.var["marker_of"].astype(str) == name])
        top = stc.get.markers(adata, name, n=15)
        assert len(planted & set(top["names"])) >= 10, name


def test_ranking_by_saliency(scored) -> None:
    adata, model = scored
    with pytest.raises(KeyError, match=r"run stc\.tl\.saliency"):
        stc.tl.rank_genes_concepts(adata, method="saliency")
    stc.tl.saliency(adata, model)
    pattern = stc.tl.rank_genes_concepts(adata, n_null=0, copy=True)
    stc.tl.rank_genes_concepts(adata, method="saliency", n_null=0)
    for name in LAYERS:
        frame = stc.get.markers(adata, name)
        expected = adata.varm["concept_saliency"][name].sort_values(ascending=False)
        np.testing.assert_allclose(frame["scores"], expected, rtol=1e-6)
        # the p-values stay those of the pattern
        both = frame.set_index("names")["pvals"], stc.get.markers(pattern, name).set_index("names")["pvals"]
        pd.testing.assert_series_equal(both[0].loc[adata.var_names], both[1].loc[adata.var_names])
    stc.tl.saliency(adata, model, concepts=["GCL"])
    with pytest.raises(KeyError, match="lacks concept 'ONL'"):
        stc.tl.rank_genes_concepts(adata, method="saliency")


def test_same_seed_same_copies(scored) -> None:
    adata, _ = scored
    runs = [
        stc.tl.rank_genes_concepts(adata, n_null=30, seed=s, copy=True).varm[f"{KEY}_pval_empirical"] for s in (1, 1, 2)
    ]
    pd.testing.assert_frame_equal(runs[0], runs[1])
    assert not runs[0].equals(runs[2])


# ---------------------------------------------------------------------------------------------- inputs


def test_x_may_be_log_normalised_after_the_model(scored) -> None:
    """Values that are no counts have no Pearson residuals: they are tested as they are."""
    adata, _ = scored
    expected = stc.tl.rank_genes_concepts(adata, n_null=0, copy=True)
    x = _features(adata)
    sc.pp.normalize_total(adata, target_sum=adata.uns["concepts"]["params"]["target_sum"])
    sc.pp.log1p(adata)
    assert "log1p" in adata.uns
    stc.tl.rank_genes_concepts(adata, target="label", null="none")
    for table in ("lfc", "pct_in", "pct_out"):
        np.testing.assert_allclose(adata.varm[f"{KEY}_{table}"], expected.varm[f"{KEY}_{table}"], rtol=1e-3, atol=1e-4)
    inside = (adata.obs["layer"] == "GCL").to_numpy()
    p = [pearsonr(column, inside.astype(float))[1] if column.std() else 1.0 for column in x.T]
    np.testing.assert_allclose(_by_gene(adata, "GCL")["pvals"], p, rtol=1e-3, atol=1e-12)
    stc.tl.rank_genes_concepts(adata, n_null=0)
    z = expected.varm[f"{KEY}_z"].to_numpy().ravel(), adata.varm[f"{KEY}_z"].to_numpy().ravel()
    assert np.corrcoef(*z)[0, 1] > 0.9


def test_without_coordinates_the_permutation_null_is_offered(scored) -> None:
    adata, _ = scored
    del adata.obsm["spatial"]
    keys = set(adata.uns), set(adata.varm)
    with pytest.raises(ValueError, match="null='permutation'"):
        stc.tl.rank_genes_concepts(adata)
    assert (set(adata.uns), set(adata.varm)) == keys
    stc.tl.rank_genes_concepts(adata, null="permutation", n_null=10)
    assert adata.uns[KEY]["params"]["null"] == "permutation"


def test_a_graph_of_the_users_own(scored) -> None:
    from scipy.sparse import csr_matrix
    from scipy.spatial import distance_matrix

    adata, _ = scored
    with pytest.raises(KeyError, match="spatial_neighbors"):
        stc.tl.rank_genes_concepts(adata, graph_key="spatial_connectivities")
    distance = distance_matrix(adata.obsm["spatial"], adata.obsm["spatial"])
    adata.obsp["near"] = csr_matrix(
        (distance < 1.2 * np.sort(distance, axis=1)[:, 1].max()) & (distance > 0), dtype=float
    )
    own = stc.tl.rank_genes_concepts(adata, graph_key="near", n_null=0, copy=True)
    stc.tl.rank_genes_concepts(adata, n_null=0)
    z = own.varm[f"{KEY}_z"].to_numpy().ravel(), adata.varm[f"{KEY}_z"].to_numpy().ravel()
    assert np.corrcoef(*z)[0, 1] > 0.95


def test_a_nearly_empty_spot_changes_no_fold_change(scored) -> None:
    """One count scaled to full depth would outweigh a layer."""
    adata, model = scored
    spot = int(np.flatnonzero(adata.obs["layer"] == "ONL")[0])
    gene = int(np.flatnonzero(adata.X[spot].toarray().ravel())[0])
    counts = adata.X.toarray()
    counts[spot] = 0
    counts[spot, gene] = 1
    adata.X = counts
    stc.tl.concepts(adata, model, groupby="layer")
    stc.tl.rank_genes_concepts(adata, n_null=0)
    keep = np.arange(adata.n_obs) != spot
    linear = counts / np.maximum(counts.sum(1, keepdims=True), 1) * adata.uns["concepts"]["params"]["target_sum"]
    inside = (adata.obs["layer"] == "ONL").to_numpy()
    lfc = np.log2((linear[inside & keep, gene].mean() + 1 / 300) / (linear[~inside & keep, gene].mean() + 1 / 300))
    assert adata.varm[f"{KEY}_lfc"]["ONL"].iloc[gene] == pytest.approx(lfc, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"method": "wilcoxon"}, ValueError, "'pattern', 'saliency'"),
        ({"null": "normal"}, ValueError, "'moran', 'permutation', 'none'"),
        ({"target": "labels"}, ValueError, "'auto', 'score', 'both', 'label'"),
        ({"concepts": ["EPL"]}, KeyError, "there are: ONL"),
        ({"section_key": "slide"}, KeyError, "'slide' is not a column"),
        ({"n_null": -1}, ValueError, "must not be negative"),
        ({"concepts_key": "nope"}, KeyError, "run stc.tl.concepts"),
    ],
)
def test_errors_leave_the_data_untouched(scored, options, error, text) -> None:
    adata, _ = scored
    keys = set(adata.uns), set(adata.varm), set(adata.obs)
    with pytest.raises(error, match=text):
        stc.tl.rank_genes_concepts(adata, **options)
    assert (set(adata.uns), set(adata.varm), set(adata.obs)) == keys


def test_scores_of_other_concepts_are_refused(scored) -> None:
    adata, _ = scored
    adata.obsm["concept_score"] = adata.obsm["concept_score"].iloc[:, :2]
    with pytest.raises(KeyError, match=r"holds scores of ONL, GL, but the concepts are ONL, GL, OPL"):
        stc.tl.rank_genes_concepts(adata)
    del adata.obsm["concept_score"]
    with pytest.raises(KeyError, match=r"run stc.tl.concepts or stc.tl.score_concepts first"):
        stc.tl.rank_genes_concepts(adata)


def test_fold_change_of_genes_seen_on_one_side_stays_finite() -> None:
    import scipy.sparse as sp

    x = sp.csr_matrix(np.log1p([[4.0, 0.0], [4.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    inside = np.array([[True], [True], [False], [False]])
    sides = SideSums(inside, ~inside, 2)
    assert len(list(sides.watching(lambda: [(slice(0, 4), x)])())) == 1
    np.testing.assert_allclose(sides.result()[0], [[np.log2(4.25 / 0.25), 0.0]])


def test_sections_are_pooled_not_mixed() -> None:
    """A gene that differs between sections, but within none, carries no concept."""
    adata = stc.datasets.simulated_bulb(n_obs=400, n_vars=150, n_sections=2, n_markers=8, seed=3)
    second = (adata.obs["section"] == adata.obs["section"].cat.categories[1]).to_numpy()
    counts = adata.X.toarray()
    gene = int(np.flatnonzero(adata.var["kind"] == "iid")[0])
    rng = np.random.default_rng(0)
    counts[:, gene] = rng.poisson(np.where(second, 1.0, 20.0))
    adata.X = counts
    # labels that are unequally spread over the sections
    adata.obs["layer"] = adata.obs["layer"].where(~(second & (adata.obs["layer"] == "ONL")))
    model = stc.SpotVAE(adata, n_latent=6).fit(max_epochs=0, progress=False)
    stc.tl.concepts(adata, model, groupby="layer", unlabelled="ignore")
    stc.tl.rank_genes_concepts(adata, target="label", null="none")
    apart = adata.varm[f"{KEY}_pval"]["ONL"].iloc[gene]
    del adata.obs["section"]
    stc.tl.rank_genes_concepts(adata, target="label", null="none")
    assert adata.varm[f"{KEY}_pval"]["ONL"].iloc[gene] < 1e-3 < apart
