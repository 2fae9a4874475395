from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import st_concepts as stc
from st_concepts.attribution import Explained
from st_concepts.evaluate._randomization import _draw, randomized


@pytest.fixture(scope="module")
def fitted():
    adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=200, n_markers=10, n_smooth=10, seed=0)
    model = stc.SpotVAE(adata, n_latent=5, n_hidden=16, n_layers=2).fit(max_epochs=2, progress=False)
    stc.tl.concepts(adata, model, groupby="layer", unlabelled="ignore")
    return adata, model


def test_layers_fall_from_the_last_to_the_first_and_the_model_stays(fitted):
    _, model = fitted
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    found = list(randomized(model, np.random.default_rng(0), cascade=True))
    # log_var is a layer, but the latent mean does not depend on it
    assert [(name, n) for name, n, _ in found] == [("out", 1), ("hidden.1", 2), ("first layer", 3)]
    first = model.first_layer
    changed = []
    for _, _, encoder in found:
        new = encoder.first_layer
        state, old = new.rest.state_dict(), first.rest.state_dict()
        changed.append({k for k in old if not torch.equal(state[k], old[k])})
        changed[-1] |= set() if torch.equal(new.weight, first.weight) else {"first"}
    assert changed[0] == {"out.weight", "out.bias"}
    assert changed[1] - changed[0] == {"hidden.1.weight", "hidden.1.bias"}
    assert changed[2] - changed[1] == {"first"}
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    alone = [e.first_layer for _, _, e in randomized(model, np.random.default_rng(0), cascade=False)]
    assert torch.equal(alone[1].rest.out.weight, first.rest.out.weight)
    assert not torch.equal(alone[1].rest.hidden[1].weight, first.rest.hidden[1].weight)
    assert torch.equal(alone[2].rest.hidden[1].weight, first.rest.hidden[1].weight)


def test_draws_have_the_moments_of_what_they_replace():
    old = torch.as_tensor(np.random.default_rng(0).normal(3, 0.5, (100, 50))).float()
    new = _draw(old, np.random.default_rng(1), fan_in=50)
    assert new.dtype == old.dtype
    assert new.mean() == pytest.approx(3, abs=0.02)
    assert new.std() == pytest.approx(0.5, rel=0.05)
    # a layer that was never trained is all zeros
    assert _draw(torch.zeros(100, 50), np.random.default_rng(1), fan_in=16).std() == pytest.approx(0.25, rel=0.05)


def test_correlations_are_those_of_saliency_of_the_randomised_model(fitted):
    adata, model = fitted
    table = stc.evaluate.model_randomization(adata, model, concept="GCL", method="gradient", n_repeats=2, seed=3)
    assert table["n_random"].tolist() == [0, 1, 2, 3] * 2
    assert (table.loc[table["n_random"] == 0, ["spearman", "spearman_abs"]] == 1).all(axis=None)
    section = Explained.read(adata, model)
    j = section.concepts.index("GCL")
    x = torch.as_tensor(model.features(adata.X).toarray())
    # a column each for what is seen in the spots and around them
    weights, directions = (torch.as_tensor(a).float() for a in (section.weights([j]), section.directions([j])))
    assert weights.shape == (adata.n_obs, 2)

    def gradient(encoder):
        leaf = x.clone().requires_grad_(True)
        ((encoder.encode(leaf) @ directions.T) * weights).sum().backward()
        return leaf.grad.sum(0).numpy()

    original = gradient(model)
    for repeat in range(2):
        rows = table[table["repeat"] == repeat].set_index("layer")
        for name, _, encoder in randomized(model, np.random.default_rng([3, repeat]), cascade=True):
            found = gradient(encoder)
            assert rows.loc[name, "spearman"] == pytest.approx(spearmanr(original, found).statistic, abs=2e-3)
            expected = spearmanr(abs(original), abs(found)).statistic
            assert rows.loc[name, "spearman_abs"] == pytest.approx(expected, abs=2e-3)


def test_random_weights_forget(fitted):
    adata, model = fitted
    table = stc.evaluate.model_randomization(adata, model)
    assert table.loc[table["layer"] == "first layer", "spearman"].abs().mean() < 0.15


def test_without_a_first_layer(hidden):
    table = stc.evaluate.model_randomization(hidden.adata, hidden.encoder, n_repeats=4, method="gradient")
    # weight and bias are one module, and nothing runs through the other
    assert table["layer"].unique().tolist() == ["", "LinearEncoder"]
    assert (table["n_random"] <= 1).all()
    assert table.loc[table["n_random"] == 1, "spearman"].abs().mean() < 0.4
    assert hidden.encoder.weight.requires_grad


def test_independent_layers_differ_from_the_cascade(fitted):
    adata, model = fitted
    table = stc.evaluate.model_randomization(adata, model, order="independent", n_repeats=1)
    assert set(table["n_random"]) == {0, 1}


def test_wrong_use(fitted):
    with pytest.raises(ValueError, match="'cascade' or 'independent'"):
        stc.evaluate.model_randomization(*fitted, order="both")
    with pytest.raises(ValueError, match="n_repeats=0"):
        stc.evaluate.model_randomization(*fitted, n_repeats=0)
    with pytest.raises(ValueError, match=r"Unknown attribution method 'x'.*gradient"):
        stc.evaluate.model_randomization(*fitted, method="x")
