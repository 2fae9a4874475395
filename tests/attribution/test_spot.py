from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from st_concepts.attribution import Options, spot_attributions

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


def run(encoder, spots, method, **kw):
    kw = {"codes": spots.codes, "dtype": torch.float64, **kw}
    return spot_attributions(encoder, kw.pop("features", spots.sparse), spots.concepts[0], method=method, **kw)


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("method", EXACT)
def test_maps_of_chosen_genes_equal_captum(tools, spots, encoder, method, kind, zero):
    genes = [7, 0, 39, 7]
    baseline = np.zeros(40) if zero else spots.baselines[0]
    uses = method in BASELINE
    truth = tools.captum_map(method, encoder, spots.concepts[0], spots.dense, baseline if uses else None, spots.codes)
    features = spots.sparse if kind == "sparse" else spots.dense
    found = run(
        encoder, spots, method, features=features, genes=genes, baseline=None if zero else baseline, chunk_size=13
    )
    expected_sparse = kind == "sparse" and (method == "gradient_x_input" or (uses and zero))
    assert sp.issparse(found.values) == expected_sparse
    values = found.values.toarray() if expected_sparse else found.values
    assert values.shape == (30, 4)
    assert tools.relative_error(values, truth[:, genes]) < 1e-6


def test_gradients_equal_finite_differences(spots, encoder):
    step = 1e-6
    values = run(encoder, spots, "gradient").values
    codes = torch.as_tensor(spots.codes)
    for g in (0, 5, 17):
        moved = []
        for sign in (1, -1):
            x = spots.dense.copy()
            x[:, g] += sign * step
            moved.append(encoder.encode(torch.as_tensor(x), codes).detach().numpy() @ spots.concepts[0])
        np.testing.assert_allclose(values[:, g], (moved[0] - moved[1]) / (2 * step), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["integrated_gradients", "deeplift", "expected_gradients"])
def test_sum_over_all_genes_is_known_from_few(spots, encoder, method):
    kw = {"baseline": spots.baselines[0]} if method in BASELINE else {"references": spots.sparse[:5]}
    few = run(encoder, spots, method, genes=[3], **kw)
    every = run(encoder, spots, method, **kw)
    np.testing.assert_allclose(few.attribution_sum, np.asarray(every.values.sum(1)).ravel(), rtol=1e-9, atol=1e-12)


def test_completeness(spots, encoder):
    ig = run(encoder, spots, "integrated_gradients", baseline=spots.baselines[0])
    gap = np.abs(ig.attribution_sum - ig.score_difference)
    assert gap.max() < 0.01 * np.abs(ig.score_difference).mean()
    lift = run(encoder, spots, "deeplift", baseline=spots.baselines[0])
    np.testing.assert_allclose(lift.attribution_sum, lift.score_difference, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "quadrature", ["gausslegendre", "riemann_trapezoid", "riemann_middle", "riemann_left", "riemann_right"]
)
def test_every_quadrature_is_captums(tools, spots, encoder, quadrature):
    found = run(encoder, spots, "integrated_gradients", options=Options(n_steps=7, quadrature=quadrature))
    truth = tools.captum_map(
        "integrated_gradients",
        encoder,
        spots.concepts[0],
        spots.dense,
        np.zeros(40),
        spots.codes,
        method=quadrature,
        n_steps=7,
    )
    assert tools.relative_error(found.values.toarray(), truth) < 1e-6


def test_smoothgrad_is_the_gradient_averaged_over_input_noise(spots, encoder):
    options = Options(n_samples=3000, noise_sd=0.4)
    found = run(encoder, spots, "smoothgrad", features=spots.sparse[:1], codes=spots.codes[:1], options=options)
    rng = np.random.default_rng(5)
    x = torch.as_tensor(spots.dense[:1] + 0.4 * rng.standard_normal((20000, 40))).requires_grad_(True)
    code = torch.full((20000,), int(spots.codes[0]))
    (encoder.encode(x, code) @ torch.as_tensor(spots.concepts[0])).sum().backward()
    each = x.grad.numpy()
    standard_error = each.std(0) * np.sqrt(1 / 3000 + 1 / 20000)
    assert (np.abs(found.values[0] - each.mean(0)) < 5 * standard_error + 1e-12).all()
    plain = run(encoder, spots, "gradient").values
    none = run(encoder, spots, "smoothgrad", options=Options(n_samples=2, noise_sd=0.0)).values
    np.testing.assert_allclose(none, plain, rtol=1e-12)


def test_expected_gradients_of_one_reference_is_integrated_gradients(spots, encoder):
    found = run(encoder, spots, "expected_gradients", references=spots.sparse[:1], options=Options(n_samples=500))
    truth = run(encoder, spots, "integrated_gradients", baseline=spots.dense[0], options=Options(n_steps=200))
    # stratified draws leave an error that falls as 1 / n_samples
    assert np.abs(found.values - truth.values).max() < 0.02 * np.abs(truth.values).max()
    np.testing.assert_allclose(found.score_difference, truth.score_difference, rtol=1e-9, atol=1e-12)


def test_same_draws_however_the_spots_are_batched(spots, encoder):
    for method in ("smoothgrad", "expected_gradients"):
        kw = {"options": Options(n_samples=4, seed=3), "references": spots.sparse[:5]}
        np.testing.assert_allclose(
            run(encoder, spots, method, chunk_size=7, **kw).values, run(encoder, spots, method, **kw).values, rtol=1e-9
        )


def test_float32_agrees_with_float64(tools, spots, encoder):
    single = run(encoder, spots, "integrated_gradients", dtype=torch.float32)
    assert single.values.dtype == np.float32
    double = run(encoder, spots, "integrated_gradients")
    assert tools.relative_error(single.values.toarray(), double.values.toarray()) < 1e-4


def test_no_spots_no_genes(spots, encoder):
    assert run(encoder, spots, "gradient", features=spots.sparse[:0], codes=spots.codes[:0]).values.shape == (0, 40)
    assert run(encoder, spots, "gradient", genes=[]).values.shape == (30, 0)
