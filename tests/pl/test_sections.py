"""Several sections in one picture."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata import AnnData
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_hex

import st_concepts as stc

IMAGE = np.full((60, 60, 3), 200, np.uint8)
FACTORS = {"tissue_hires_scalef": 3.0, "spot_diameter_fullres": 0.8}


@pytest.fixture(scope="module")
def made() -> AnnData:
    one = stc.datasets.simulated_bulb(n_obs=120, n_vars=150, seed=0)
    del one.obs["section"]
    both = ad.concat([one, one], label="slide", keys=["S1", "S2"], index_unique="-")
    both.obs["layer"] = both.obs["layer"].astype("category")
    model = stc.SpotVAE(both, n_latent=5).fit(max_epochs=0, progress=False)
    stc.tl.concepts(both, model, groupby="layer", context=0)
    stc.tl.saliency_map(both, model, concept="GCL", genes=["GCL-marker1"])
    return both


@pytest.fixture
def two(made) -> AnnData:
    return made.copy()


@pytest.fixture(autouse=True)
def _no_figure_is_left():
    yield
    plt.close("all")


@pytest.mark.parametrize(
    "draw",
    [
        lambda a: stc.pl.annotation(a, library_key="slide", show=False),
        lambda a: stc.pl.concept_scores(a, ["ONL"], library_key="slide", show=False),
        lambda a: stc.pl.saliency_map(a, concept="GCL", genes="GCL-marker1", section_key="slide", show=False),
    ],
    ids=["annotation", "concept_scores", "saliency_map"],
)
def test_a_panel_a_section_without_any_image(two, draw) -> None:
    axes = draw(two)
    assert [ax.get_title().split(", ")[-1] for ax in axes] == ["S1", "S2"]
    for ax in axes:
        np.testing.assert_allclose(ax.collections[0].get_offsets(), two.obsm["spatial"][:120])
        assert ax.yaxis_inverted()
        assert ax.get_aspect() == 1.0


def test_stacked_sections_are_not_drawn_as_one(two) -> None:
    with pytest.raises(ValueError, match=r"stacked, and no column of adata.obs .* section_key="):
        stc.pl.concept_scores(two, ["ONL"], show=False)
    with pytest.raises(ValueError, match="two names of one thing"):
        stc.pl.concept_scores(two, ["ONL"], section_key="slide", library_key="layer", show=False)
    with pytest.raises(KeyError, match="section_key='no' is not a column"):
        stc.pl.annotation(two, library_key="no", show=False)


def test_an_image_lies_under_its_own_spots_only(two) -> None:
    two.uns["spatial"] = {"S1": {"images": {"hires": IMAGE}, "scalefactors": FACTORS}}
    first, second = stc.pl.concept_scores(two, ["ONL"], section_key="slide", show=False)
    circles = [c for ax in (first, second) for c in ax.collections if isinstance(c, PatchCollection)]
    assert [len(ax.images) for ax in (first, second)] == [1, 0]
    assert [len(c.get_paths()) for c in circles] == [120]
    assert len(second.collections[0].get_offsets()) == 120


@pytest.mark.parametrize(
    ("entry", "images"),
    [
        ({"images": {"hires": IMAGE}}, 0),
        ({"images": {"hires": IMAGE}, "scalefactors": {"tissue_hires_scalef": 3.0}}, 1),
        ({"images": {"hires": None, "lowres": IMAGE}, "scalefactors": {"tissue_lowres_scalef": 3.0}}, 1),
        ("junk", 0),
    ],
)
@pytest.mark.filterwarnings("ignore:adata.uns")
def test_unusable_images_do_not_keep_spots_from_being_drawn(two, entry, images) -> None:
    two.uns["spatial"] = {"S1": entry} if isinstance(entry, dict) else entry
    one = two[:120].copy()
    ax = stc.pl.concept_scores(one, "ONL", show=False)
    assert len(ax.images) == images


def test_rows_are_sections_columns_are_concepts(two) -> None:
    names = ["ONL", "GL", "OPL", "MCL"]
    axes = stc.pl.concept_scores(two, names, section_key="slide", show=False)
    assert [ax.get_title() for ax in axes] == [f"{n}, {s}" for s in ("S1", "S2") for n in names]
    places = [ax.get_subplotspec() for ax in axes]
    assert [p.rowspan.start for p in places] == [0] * 4 + [1] * 4
    assert [p.colspan.start for p in places] == [*range(4), *range(4)]
    # one scale for both
    assert axes[0].collections[0].norm.vmax == axes[4].collections[0].norm.vmax
    axes = stc.pl.concept_scores(two, [*names, "GCL"], ncols=2, section_key="slide", show=False)
    assert [ax.get_subplotspec().rowspan.start for ax in axes] == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]


def test_a_layer_keeps_its_colour_where_a_section_lacks_another(two) -> None:
    lacking = two[~((two.obs["slide"] == "S2") & (two.obs["layer"] == "ONL")).to_numpy()].copy()
    axes = stc.pl.annotation(lacking, "layer", section_key="slide", show=False)
    at = {}
    for ax, name in zip(axes, ["S1", "S2"], strict=True):
        rows = (lacking.obs["slide"] == name).to_numpy()
        first = int(np.flatnonzero((lacking.obs["layer"][rows] == "GCL").to_numpy())[0])
        at[name] = to_hex(ax.collections[0].get_facecolors()[first])
    assert at["S1"] == at["S2"]


@pytest.mark.parametrize(("value", "match"), [(np.nan, "NaN or infinite for 1 of 120"), (1e300, "no position")])
def test_spots_without_a_place_are_named(two, value, match) -> None:
    one = two[:120].copy()
    one.obsm["spatial"][3] = value
    with pytest.raises(ValueError, match=match):
        stc.pl.concept_scores(one, ["ONL"], show=False)
