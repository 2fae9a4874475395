"""What must hold on the real olfactory bulb, replicate 11, with the defaults."""

from __future__ import annotations

import pytest

import st_concepts as stc

pytestmark = [pytest.mark.real_data, pytest.mark.xdist_group("bulb")]
LAYERS = ["ONL", "GL", "OPL", "MCL", "GCL"]


@pytest.fixture(scope="module")
def fitted(fitted_bulb):
    adata, model = fitted_bulb[0].copy(), fitted_bulb[1]
    stc.tl.saliency(adata, model)
    return adata, model


def test_fifty_salient_genes_carry_more_than_five_times_what_random_ones_do(fitted):
    adata, model = fitted
    table = stc.evaluate.faithfulness(adata, model)
    assert table["concept"].unique().tolist() == LAYERS
    at = table[table["n_genes"] == 50]
    assert (at["effect"] > 0).all()
    # seen: 21 to 40
    assert (at["ratio"] >= 5).all(), at[["concept", "curve", "ratio"]].to_string()
    # and no single draw of random genes comes near
    assert (at["effect"] > at["effect_random"] + 10 * at["score_random_sd"]).all()
    assert (table["area"] > 0.05).all()


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient"])
def test_random_weights_change_saliency(fitted, method):
    table = stc.evaluate.model_randomization(*fitted, method=method)
    last = table[table["n_random"] == table["n_random"].max()]
    assert last["layer"].unique().tolist() == ["first layer"]
    # seen: below 0.03
    assert (last["spearman"].abs() < 0.2).all(), last.to_string()


def test_known_markers_are_among_the_first(fitted):
    table = stc.evaluate.marker_recovery(fitted[0]).set_index("concept")
    # seen: 0.67 of 6, 0.5 of 8, 0.77 of 13 markers; few are known of OPL and GCL, or apart from neighbouring layers
    assert (table.loc[["ONL", "GL", "MCL"], "share"] >= 0.35).all(), table.to_string()
    assert (table.loc[["ONL", "GL", "MCL", "GCL"], "auroc"] > 0.9).all(), table.to_string()
