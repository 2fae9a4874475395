from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from st_concepts.attribution import Batch, group_attributions, iter_batches, spot_attributions


def group(encoder, spots, *, features=None, weights=None, codes=None, **kw):
    codes = spots.codes if codes is None else codes
    batch = Batch(spots.sparse if features is None else features, spots.weights if weights is None else weights, codes)
    return group_attributions(encoder, [batch], **{"method": "gradient", **kw})


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite(encoder, spots, kind, value):
    x = spots.dense.copy()
    x[4, 2] = value
    x = sp.csr_matrix(x) if kind == "sparse" else x
    with pytest.raises(ValueError, match="first in row 4"):
        group(encoder, spots, features=x)
    with pytest.raises(ValueError, match="first in row 4"):
        spot_attributions(encoder, x, spots.concepts[0], codes=spots.codes)


def test_shapes(encoder, spots):
    with pytest.raises(ValueError, match="takes 40 features"):
        group(encoder, spots, features=spots.sparse[:, :39])
    with pytest.raises(ValueError, match="the batch has 30 spots"):
        group(encoder, spots, weights=spots.weights[:29])
    with pytest.raises(ValueError, match="not negative"):
        group(encoder, spots, weights=-spots.weights)
    with pytest.raises(ValueError, match=r"needs 3 entries.*another model"):
        group(encoder, spots, concepts=np.ones((2, 4)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        group(encoder, spots, concepts=np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="one concept per group: got 2 concepts and 3 groups"):
        group(encoder, spots, concepts=np.ones((2, 3)), paired=True)
    with pytest.raises(ValueError, match="Got 2 baselines for 3 groups"):
        group(encoder, spots, method="integrated_gradients", baselines=np.zeros((2, 40)))
    with pytest.raises(ValueError, match="needs 40 values"):
        group(encoder, spots, method="integrated_gradients", baselines=np.zeros(39))
    with pytest.raises(ValueError, match="float32 or"):
        group(encoder, spots, dtype=torch.bfloat16)
    batches = [Batch(spots.sparse, spots.weights, spots.codes), Batch(spots.sparse, np.ones((30, 2)), spots.codes)]
    with pytest.raises(ValueError, match="earlier ones had 3"):
        group_attributions(encoder, batches, method="gradient")


def test_streams_without_spots(encoder, spots):
    with pytest.raises(ValueError, match="stream of batches is empty"):
        group_attributions(encoder, iter_batches(spots.sparse, np.zeros((30, 2)), spots.codes))
    weights = spots.weights.copy()
    weights[:, 1] = 0
    found = group(encoder, spots, weights=weights, method="integrated_gradients")
    assert np.isnan(found.values[1]).all()
    assert np.isnan(found.score_difference[1]).all()
    assert np.isfinite(found.values[[0, 2]]).all()


def test_codes(encoder, spots):
    with pytest.raises(ValueError, match="has 2 covariate codes"):
        spot_attributions(encoder, spots.sparse, spots.concepts[0])
    with pytest.raises(ValueError, match="between 0 and 1"):
        group(encoder, spots, codes=spots.codes + 1)
    with pytest.raises(ValueError, match="30 integers"):
        group(encoder, spots, codes=spots.codes.astype(float))


def test_genes(encoder, spots):
    for genes in ([40], [3, -1]):
        with pytest.raises(ValueError, match="not in the model, which has 40"):
            spot_attributions(encoder, spots.sparse, spots.concepts[0], genes=genes, codes=spots.codes)
    with pytest.raises(ValueError, match="get_indexer"):
        spot_attributions(encoder, spots.sparse, spots.concepts[0], genes=["g1"], codes=spots.codes)


def test_methods_that_are_not_linear_need_concepts(encoder, spots):
    with pytest.raises(ValueError, match="rectgrad is not linear in the concept"):
        group(encoder, spots, method="rectgrad")
    with pytest.raises(ValueError, match="not per latent dimension"):
        group(encoder, spots, concepts=spots.concepts).contract(spots.concepts)


def test_references(encoder, spots):
    kw = {"method": "expected_gradients"}
    with pytest.raises(ValueError, match="needs references"):
        group(encoder, spots, **kw)
    with pytest.raises(ValueError, match="Got 2 matrices of reference spots for 3 groups"):
        group(encoder, spots, references=[spots.sparse[:2]] * 2, **kw)
    with pytest.raises(ValueError, match="is empty"):
        group(encoder, spots, references=spots.sparse[:0], **kw)


@pytest.mark.parametrize("factorised", [True, False])
def test_train_mode_changes_nothing_and_is_kept(tools, spots, factorised):
    encoder = tools.TinyEncoder(factorised=factorised)
    encoder.rest.net.insert(1, torch.nn.Dropout(0.5))
    found = []
    for training in (False, True):
        encoder.train(training)
        encoder.rest.net[1].eval()
        encoder.rest.net[1].train(training)
        before = [m.training for m in encoder.modules()]
        found.append(group(encoder, spots, method="integrated_gradients").values)
        assert [m.training for m in encoder.modules()] == before
    np.testing.assert_array_equal(*found)


def test_caller_keeps_its_data(encoder, spots):
    features, weights = spots.sparse.copy(), spots.weights.copy()
    state = {k: v.clone() for k, v in encoder.state_dict().items()}
    for method in ("integrated_gradients", "occlusion", "deeplift"):
        group(encoder, spots, method=method, features=features, weights=weights)
    assert (features != spots.sparse).nnz == 0
    np.testing.assert_array_equal(weights, spots.weights)
    assert all(torch.equal(v, state[k]) for k, v in encoder.state_dict().items())
    assert all(p.grad is None for p in encoder.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_other_device(spots, tools):
    here = group(tools.TinyEncoder(), spots, method="integrated_gradients", dtype=torch.float64)
    there = group(tools.TinyEncoder().cuda(), spots, method="integrated_gradients", dtype=torch.float64)
    np.testing.assert_allclose(there.values, here.values, rtol=1e-9)
