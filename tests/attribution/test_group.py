from __future__ import annotations

import numpy as np
import pytest
import torch

from st_concepts.attribution import METHODS, Options, group_attributions, iter_batches, spot_attributions

EXACT = [
    "gradient",
    "gradient_x_input",
    "integrated_gradients",
    "guided_backprop",
    "deconvolution",
    "deeplift",
    "occlusion",
]
BASELINE = {"integrated_gradients", "deeplift", "occlusion"}


def expected(tools, spots, model, method, group, concept):
    baseline = spots.baselines[group] if method in BASELINE else None
    maps = tools.captum_map(method, model, concept, spots.dense, baseline, spots.codes)
    return np.average(maps, axis=0, weights=spots.weights[:, group])


@pytest.mark.parametrize("factorised", [True, False])
@pytest.mark.parametrize("method", EXACT)
def test_group_means_equal_captum(tools, spots, method, factorised):
    encoder = tools.TinyEncoder(factorised=factorised)
    found = group_attributions(
        encoder,
        iter_batches(spots.sparse, spots.weights, spots.codes, batch_size=7),
        method=method,
        concepts=spots.concepts,
        paired=True,
        baselines=spots.baselines if method in BASELINE else None,
        dtype=torch.float64,
        chunk_size=5,
    )
    assert found.values.shape == (3, 1, 40)
    assert found.path == ("factorised" if factorised else "autograd")
    for k in range(3):
        truth = expected(tools, spots, encoder, method, k, spots.concepts[k])
        assert tools.relative_error(found.values[k, 0], truth) < 1e-6


@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if m.linear_in_concept])
def test_latent_dimensions_serve_every_concept(spots, encoder, method):
    kw = {
        "method": method,
        "baselines": spots.baselines if method in BASELINE else None,
        "references": spots.sparse[:6] if method == "expected_gradients" else None,
        "options": Options(n_steps=8, n_samples=6),
        "dtype": torch.float64,
    }
    per_latent = group_attributions(encoder, iter_batches(spots.sparse, spots.weights, spots.codes), **kw)
    assert per_latent.values.shape == (3, 3, 40)
    for paired in (True, False):
        direct = group_attributions(
            encoder,
            iter_batches(spots.sparse, spots.weights, spots.codes, batch_size=11),
            concepts=spots.concepts,
            paired=paired,
            **kw,
        )
        contracted = per_latent.contract(spots.concepts, paired=paired)
        np.testing.assert_allclose(contracted.values, direct.values, rtol=1e-9, atol=1e-12)
        if direct.score_difference is not None:
            np.testing.assert_allclose(contracted.score_difference, direct.score_difference, rtol=1e-9)


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("factorised", [True, False])
def test_group_mean_is_mean_of_spot_maps(tools, spots, method, factorised):
    encoder = tools.TinyEncoder(factorised=factorised)
    options = Options(n_steps=8, n_samples=5)
    references = spots.sparse[:6] if method == "expected_gradients" else None
    weights = spots.weights[:, :1] + 0.1
    group = group_attributions(
        encoder,
        iter_batches(spots.sparse, weights, spots.codes, batch_size=7),
        method=method,
        concepts=spots.concepts[0],
        baselines=spots.baselines[0] if method in BASELINE else None,
        references=references,
        options=options,
        dtype=torch.float64,
    )
    single = spot_attributions(
        encoder,
        spots.sparse,
        spots.concepts[0],
        method=method,
        codes=spots.codes,
        baseline=spots.baselines[0] if method in BASELINE else None,
        references=references,
        options=options,
        dtype=torch.float64,
        chunk_size=11,
    )
    maps = single.values.toarray() if hasattr(single.values, "toarray") else single.values
    np.testing.assert_allclose(
        group.values[0, 0], np.average(maps, axis=0, weights=weights[:, 0]), rtol=1e-9, atol=1e-12
    )
