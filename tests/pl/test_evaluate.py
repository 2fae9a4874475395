from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import st_concepts as stc


@pytest.fixture(autouse=True)
def _no_figure_is_left():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, n_markers=10, n_smooth=10, seed=0)
    model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    other = stc.SpotVAE(adata, n_latent=8).fit(max_epochs=0, progress=False)
    stc.tl.concepts(adata, model, groupby="layer", unlabelled="ignore")
    stc.tl.saliency(adata, model)
    return {
        "faithfulness": stc.evaluate.faithfulness(adata, model, n_top=(5, 10)),
        "randomization": stc.evaluate.model_randomization(adata, model, n_repeats=2),
        "stability": stc.evaluate.stability(adata, [model, other, model]),
    }


@pytest.mark.parametrize("name", ["faithfulness", "randomization", "stability"])
def test_a_picture_is_written_and_the_table_untouched(tables, tmp_path, name):
    before = tables[name].copy()
    getattr(stc.pl, name)(tables[name], save=tmp_path / "new" / name, show=False)
    with Image.open(tmp_path / "new" / f"{name}.png") as picture:
        assert picture.size[0] > 300
    pd.testing.assert_frame_equal(tables[name], before)
    assert not plt.get_fignums()


def test_curves_show_the_table(tables):
    table = tables["faithfulness"]
    axes = stc.pl.faithfulness(table, ["GCL", "ONL"], show=False)
    assert [ax.get_title().split(",")[0] for ax in axes] == ["GCL", "ONL"]
    rows = table[(table["concept"] == "GCL") & (table["curve"] == "insertion")]
    line = next(x for x in axes[0].lines if x.get_label() == "insertion, salient genes")
    np.testing.assert_allclose(line.get_xydata(), rows[["n_genes", "score"]].to_numpy())


def test_one_concept_on_given_axes(tables):
    _, ax = plt.subplots()
    assert stc.pl.faithfulness(tables["faithfulness"], "GL", ax=ax, show=False) is ax
    with pytest.raises(ValueError, match="ax holds 1 axes, but there are 5"):
        stc.pl.faithfulness(tables["faithfulness"], ax=ax, show=False)


def test_correlations_are_means_over_repeats(tables):
    table = tables["randomization"]
    ax = stc.pl.randomization(table, "MCL", value="spearman_abs", show=False)
    expected = table[table["concept"] == "MCL"].groupby("n_random")["spearman_abs"].mean()
    np.testing.assert_allclose(ax.containers[0].lines[0].get_ydata(), expected)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["none", "+ out", "+ first layer"]


@pytest.mark.parametrize("value", ["spearman", "spearman_score", "overlap"])
def test_every_pair_is_a_point(tables, value):
    table = tables["stability"]
    ax = stc.pl.stability(table, value=value, show=False)
    points = np.sort(np.concatenate([line.get_ydata() for line in ax.lines[:5]]))
    np.testing.assert_allclose(points, np.sort(table[value]))
    assert (ax.get_legend() is not None) == (value == "overlap")


@pytest.mark.parametrize("name", ["faithfulness", "randomization", "stability"])
def test_wrong_tables_and_names(tables, name):
    draw = getattr(stc.pl, name)
    with pytest.raises(KeyError, match=r"lacks concept.*st_concepts\.evaluate\."):
        draw(pd.DataFrame({"x": [1]}))
    with pytest.raises(KeyError, match="'Z' is not in the table; there are: ONL, GL"):
        draw(tables[name], "Z")
