from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from PIL import Image

import st_concepts as stc

NAMES = ["ONL", "GL", "OPL", "L2/3", "GCL"]


@pytest.fixture(scope="module")
def made() -> AnnData:
    adata = stc.datasets.simulated_bulb(n_obs=250, n_vars=200, n_markers=10, unlabelled=0.1, seed=3)
    adata.obs["layer"] = adata.obs["layer"].cat.rename_categories({"MCL": "L2/3"})
    model = stc.SpotVAE(adata, n_latent=8).fit(max_epochs=0, progress=False)
    stc.tl.concepts(adata, model, groupby="layer")
    stc.tl.saliency(adata, model)
    stc.tl.saliency_map(adata, model, concept="L2/3", genes=["MCL-marker1", "GCL-marker2"])
    stc.tl.rank_genes_concepts(adata, null="permutation", n_null=0)
    return adata


@pytest.fixture
def done(made) -> AnnData:
    return made.copy()


@pytest.fixture(autouse=True)
def _no_figure_is_left():
    yield
    plt.close("all")


def with_image(adata: AnnData, name: str = "s1") -> AnnData:
    """The same section on a picture of 100 x 120 pixels, half the resolution of the coordinates."""
    adata.obsm["spatial"] = 20 + 4 * (adata.obsm["spatial"] - adata.obsm["spatial"].min(0))
    image = np.full((120, 100, 3), 200, dtype=np.uint8)
    factors = {"tissue_hires_scalef": 0.5, "spot_diameter_fullres": 3.0}
    adata.uns["spatial"] = {name: {"images": {"hires": image}, "scalefactors": factors}}
    return adata


DRAW = {
    "annotation": lambda a, **k: stc.pl.annotation(a, **k),
    "concept_scores": lambda a, **k: stc.pl.concept_scores(a, **k),
    "saliency_map": lambda a, **k: stc.pl.saliency_map(a, concept="L2/3", **k),
    "concept_histograms": lambda a, **k: stc.pl.concept_histograms(a, **k),
    "dotplot": lambda a, **k: stc.pl.markers(a, n=3, **k),
    "matrixplot": lambda a, **k: stc.pl.markers(a, n=3, kind="matrixplot", **k),
    "heatmap": lambda a, **k: stc.pl.markers(a, n=3, kind="heatmap", **k),
}


def frozen(adata: AnnData) -> dict:
    """Everything that a plot might touch."""
    return {
        "X": adata.X.copy(),
        "obs": adata.obs.copy(),
        "var": adata.var.copy(),
        "uns": {k: str(v) for k, v in adata.uns.items()},
        "obsm": {k: np.array(v) for k, v in adata.obsm.items()},
        "layers": {k: v.copy() for k, v in adata.layers.items()},
    }


@pytest.mark.parametrize(
    ("name", "image"),
    [(n, False) for n in DRAW] + [(n, True) for n in ("annotation", "concept_scores", "saliency_map")],
)
def test_axes_come_back_the_file_is_there_and_the_data_are_untouched(done, tmp_path, name, image):
    adata = with_image(done) if image else done
    before = frozen(adata)
    axes = DRAW[name](adata, save=tmp_path / "new" / "picture.png", show=False)
    flat = list(axes.values()) if isinstance(axes, dict) else axes if isinstance(axes, list) else [axes]
    assert flat
    assert all(isinstance(ax, Axes) for ax in flat)
    with Image.open(tmp_path / "new" / "picture.png") as picture:
        assert min(picture.size) > 200
        assert np.asarray(picture.convert("L")).std() > 5  # something is drawn
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["picture.png"]
    after = frozen(adata)
    assert (before["X"] != after["X"]).nnz == 0
    assert before["obs"].equals(after["obs"])
    assert before["var"].equals(after["var"])
    assert before["uns"] == after["uns"]
    assert before["obsm"].keys() == after["obsm"].keys()
    assert all(np.array_equal(before["obsm"][k], after["obsm"][k], equal_nan=True) for k in before["obsm"])
    assert before["layers"].keys() == after["layers"].keys()


def test_a_saved_figure_is_closed_an_unsaved_one_stays(done, tmp_path):
    stc.pl.concept_scores(done, save=tmp_path / "a.pdf")
    assert plt.get_fignums() == []
    stc.pl.concept_scores(done, "GCL", show=False)
    assert len(plt.get_fignums()) == 1


def test_true_names_stand_in_the_titles(done):
    assert [ax.get_title() for ax in stc.pl.concept_scores(done, show=False)] == NAMES
    assert stc.pl.concept_scores(done, "L2_3", show=False).get_title() == "L2/3"
    titles = {ax.get_title() for ax in stc.pl.saliency_map(done, concept="L2/3", show=False)}
    assert titles == {"MCL-marker1 for L2/3", "GCL-marker2 for L2/3"}
    axes = stc.pl.markers(done, n=2, show=False)["mainplot_ax"]
    assert [t.get_text() for t in axes.get_yticklabels()] == NAMES


def test_every_spot_is_drawn_at_its_place_in_the_colour_of_its_score(done):
    ax = stc.pl.concept_scores(done, "GCL", show=False)
    points = ax.collections[0]
    np.testing.assert_allclose(points.get_offsets(), done.obsm["spatial"])
    np.testing.assert_allclose(points.get_array(), done.obsm["concept_score"]["GCL"], rtol=1e-6)
    assert points.norm.vmin == -points.norm.vmax


def test_on_an_image_spots_are_scaled_with_it_and_the_glass_around_is_left_out(done):
    adata = with_image(done)
    ax = stc.pl.concept_scores(adata, "GCL", show=False)
    circles = next(c for c in ax.collections if isinstance(c, PatchCollection))
    low, high = circles.get_datalim(ax.transData).get_points()
    np.testing.assert_allclose(low, adata.obsm["spatial"].min(0) / 2, atol=1.0)
    np.testing.assert_allclose(high, adata.obsm["spatial"].max(0) / 2, atol=1.0)
    assert len(ax.images) == 1
    left, right = ax.get_xlim()
    bottom, top = ax.get_ylim()
    assert left < low[0] < high[0] < right
    assert top < low[1] < high[1] < bottom


def test_several_images_need_to_know_which_spot_is_on_which(done):
    adata = with_image(done)
    adata.uns["spatial"]["s2"] = adata.uns["spatial"]["s1"]
    adata.obs["slide"] = np.where(np.arange(adata.n_obs) < 100, "s1", "s2")
    del adata.obs["section"]
    with pytest.raises(ValueError, match="section_key"):
        stc.pl.concept_scores(adata, "GCL", show=False)
    axes = stc.pl.concept_scores(adata, "GCL", library_key="slide", show=False)
    assert [ax.get_title() for ax in axes] == ["GCL, s1", "GCL, s2"]
    assert [len(next(c for c in ax.collections if len(c.get_paths()) > 1).get_paths()) for ax in axes] == [100, 150]


def test_axes_of_the_users_are_drawn_on_and_neither_closed_nor_too_many(done, tmp_path):
    figure, (left, right) = plt.subplots(1, 2)
    back = stc.pl.concept_histograms(done, ["ONL", "GCL"], ax=[left, right], save=tmp_path / "a.png")
    assert back == [left, right]
    assert plt.fignum_exists(figure.number)
    with pytest.raises(ValueError, match="2 axes, but there are 5 panels"):
        stc.pl.concept_histograms(done, ax=[left, right])
    assert stc.pl.saliency_map(done, concept="L2/3", genes="MCL-marker1", ax=left, show=False) is left


def test_auroc_in_the_title_is_the_share_of_pairs_in_order(done):
    title = stc.pl.concept_histograms(done, "L2/3", show=False).get_title()
    labels, score = done.obs["layer"], done.obsm["concept_score"]["L2_3"].to_numpy()
    inside = score[(labels == "L2/3").to_numpy()]
    outside = score[(labels.notna() & (labels != "L2/3")).to_numpy()]
    pairs = np.sign(inside[:, None] - outside[None, :])
    assert title == f"L2/3, AUROC {(pairs.mean() + 1) / 2:.3f}"


def test_histograms_can_be_held_against_another_annotation(done):
    ax = stc.pl.concept_histograms(done, "GCL", groupby="true_layer", show=False)
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    n = int((done.obs["true_layer"] == "GCL").sum())
    assert labels == [f"outside: {done.n_obs - n} spots", f"inside: {n} spots"]
    with pytest.raises(KeyError, match="not a column"):
        stc.pl.concept_histograms(done, groupby="lyer", show=False)
    with pytest.raises(ValueError, match="No label"):
        stc.pl.concept_histograms(done, groupby="section", show=False)


@pytest.mark.parametrize("layer", [None, "counts"])
def test_marker_panels_draw_log_normalised_means_of_each_layer(layer):
    adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, n_markers=5, seed=1)
    if layer is not None:
        adata.layers[layer] = adata.X.copy()
        adata.X = sp.csr_matrix(adata.shape, dtype=np.float32)
    model = stc.SpotVAE(adata, layer=layer, n_latent=5).fit(max_epochs=0, progress=False)
    stc.tl.concepts(adata, model, groupby="layer")
    stc.tl.rank_genes_concepts(adata, null="none")
    axes = stc.pl.markers(adata, "GCL", n=4, kind="matrixplot", standard_scale=None, show=False)
    drawn = axes["mainplot_ax"].collections[0].get_array().reshape(5, 4)

    other = adata.copy()
    if layer is not None:
        other.X = other.layers[layer]
    sc.pp.normalize_total(other, target_sum=model.target_sum)
    sc.pp.log1p(other)
    genes = stc.get.markers(adata, "GCL", n=4)["names"].tolist()
    expected = other[:, genes].to_df().groupby(adata.obs["layer"], observed=True).mean().to_numpy()
    np.testing.assert_allclose(drawn, expected, rtol=1e-4)


def test_concepts_without_labels_are_drawn_too(simulated, tmp_path):
    model = stc.SpotVAE(simulated, n_latent=6).fit(max_epochs=0, progress=False)
    stc.tl.concepts(simulated, model, genes=["GCL-marker1", "ONL-marker1"])
    stc.tl.rank_genes_concepts(simulated, null="none")
    axes = stc.pl.markers(simulated, n=2, show=False)["mainplot_ax"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["GCL-marker1-like", "ONL-marker1-like", "other spots"]
    assert len(stc.pl.concept_histograms(simulated, show=False)) == 2
    with pytest.raises(KeyError, match="groupby="):
        stc.pl.annotation(simulated, show=False)


def test_mistakes_are_named(done):
    with pytest.raises(KeyError, match="unknown; there are: ONL"):
        stc.pl.concept_scores(done, "XYZ", show=False)
    with pytest.raises(KeyError, match=r"saliency_map\(adata, model, concept='GCL'"):
        stc.pl.saliency_map(done, concept="GCL", show=False)
    with pytest.raises(ValueError, match="was not computed"):
        stc.pl.saliency_map(done, concept="L2/3", genes="ONL-marker1", show=False)
    with pytest.raises(KeyError, match=r"not in adata\.var_names: Nope"):
        stc.pl.saliency_map(done, concept="L2/3", genes=["Nope"], show=False)
    with pytest.raises(ValueError, match="'dotplot', 'matrixplot' or 'heatmap'"):
        stc.pl.markers(done, kind="violin", show=False)
    with pytest.raises(ValueError, match="pictures can end in"):
        stc.pl.concept_scores(done, "GCL", save="a.docx", show=False)
    del done.obsm["spatial"]
    with pytest.raises(KeyError, match="coordinates"):
        stc.pl.concept_scores(done, show=False)


def test_settings_of_scanpy_are_respected(done, tmp_path, monkeypatch):
    before = sc.settings.figdir, sc.settings.autosave
    try:
        sc.settings.figdir = tmp_path / "figures"
        stc.pl.concept_histograms(done, "GCL", show=False)
        assert not (tmp_path / "figures").exists() or not list((tmp_path / "figures").iterdir())
        stc.pl.concept_histograms(done, "GCL", save=True)
        sc.settings.autosave = True
        stc.pl.concept_scores(done, "GCL")
        assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == [
            "concept_histograms.png",
            "concept_scores.png",
        ]
        # axes of the user's are the user's to save
        _, ax = plt.subplots()
        stc.pl.annotation(done, "layer", ax=ax)
        assert len(list((tmp_path / "figures").iterdir())) == 2
    finally:
        sc.settings.figdir, sc.settings.autosave = before
    sizes = []
    for dpi in (60, 120):
        monkeypatch.setitem(plt.rcParams, "savefig.dpi", dpi)
        stc.pl.concept_histograms(done, "GCL", save=tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as picture:
            sizes.append(picture.width)
    assert 1.8 < sizes[1] / sizes[0] < 2.2


def test_parts_of_a_map_share_their_colours(simulated) -> None:
    model = stc.SpotVAE(simulated, n_latent=5).fit(max_epochs=0, progress=False)
    stc.tl.concepts(simulated, model, groupby="layer", context=3)
    genes = list(simulated.var_names[:2])
    for part in ("own", "surroundings"):
        stc.tl.saliency_map(simulated, model, concept="GCL", genes=genes, part=part)
    axes = stc.pl.saliency_map(simulated, genes, "GCL", part=["own", "surroundings"], show=False)
    assert [ax.get_title() for ax in axes] == [
        f"{gene} for GCL, {where} the spot" for gene in genes for where in ("in", "around")
    ]
    limits = [ax.collections[0].get_clim() for ax in axes]
    assert limits[0] == limits[1] != limits[2] == limits[3]
    slots = ("concept_own_saliency_GCL", "concept_context_saliency_GCL")
    strongest = max(np.percentile(abs(simulated.layers[s][:, [0]].data), 99) for s in slots)
    assert limits[0][1] == pytest.approx(strongest, rel=1e-4)
    np.testing.assert_allclose(
        axes[1].collections[0].get_array(), simulated.layers[slots[1]][:, [0]].toarray().ravel(), rtol=1e-5
    )
    # the only concept that has a map of this part
    assert len(stc.pl.saliency_map(simulated, part="own", show=False)) == 2
    with pytest.raises(KeyError, match=r"concept='GCL', genes=\[\.\.\.\]\) first"):
        stc.pl.saliency_map(simulated, genes, "GCL", show=False)
    with pytest.raises(KeyError, match=r"part='own'"):
        stc.pl.saliency_map(simulated, genes, "ONL", part="own", show=False)
    with pytest.raises(ValueError, match="'both', 'own', 'surroundings'"):
        stc.pl.saliency_map(simulated, genes, "GCL", part="inside", show=False)
    with pytest.raises(ValueError, match="only one"):
        stc.pl.saliency_map(simulated, genes, "GCL", part=["own", "both"], layer="x", show=False)
