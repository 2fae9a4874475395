from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy import stats

from st_concepts._counts.split import thin
from st_concepts.models._spot import fit as _fit
from st_concepts.models._spot.data import Source, SpotData
from st_concepts.models._spot.fit import FitOptions, elbo_loss, fit_module, held_out_nll, parameter_groups
from st_concepts.models._spot.likelihood import nb_log_prob
from st_concepts.models._spot.module import SpotModule


def _counts(n: int = 40, g: int = 12, seed: int = 0) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    return sp.csr_matrix((rng.poisson(rng.gamma(1.0, 6.0, (n, g))) + np.eye(n, g)).astype(np.float32))


def _module(g: int = 12, n_sections: int = 1, seed: int = 0) -> SpotModule:
    generator = torch.Generator().manual_seed(seed)
    module = SpotModule(g, n_latent=3, n_hidden=6, n_layers=2, n_sections=n_sections, generator=generator)
    with torch.no_grad():
        for p in module.parameters():  # nothing left at zero
            p.add_(torch.empty_like(p).normal_(0, 0.1, generator=generator))
    return module


def _options(**changes) -> FitOptions:
    base = {"max_epochs": 3, "batch_size": 8, "lr": 1e-3, "weight_decay": 0.0, "kl_weight": 1.0}
    base |= {"patience": 5, "min_delta": 1e-4, "seed": 0}
    return FitOptions(**{**base, "progress": False, **changes})


def _data(codes: np.ndarray | None = None, held: bool = True) -> SpotData:
    counts = _counts()
    names = pd.Index([f"g{i}" for i in range(counts.shape[1])])
    source = Source(counts, codes, 1 if codes is None else int(codes.max()) + 1, 50.0, names, "X")
    return SpotData(source, fraction=0.2 if held else 0.0, seed=0)


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_thinning_is_binomial(fraction) -> None:
    counts = sp.csr_matrix(np.full((200, 100), 20, dtype=np.float32))
    first, second = thin(counts, fraction, seed=1)
    assert np.array_equal((first + second).toarray(), counts.toarray())
    part = second.toarray()
    n = part.size
    assert part.mean() == pytest.approx(20 * fraction, abs=4 * np.sqrt(20 * fraction * (1 - fraction) / n))
    assert part.var() == pytest.approx(20 * fraction * (1 - fraction), rel=0.05)
    # and the whole distribution, not only its moments
    seen = np.bincount(part.ravel().astype(int), minlength=21) / n
    want = stats.binom.pmf(np.arange(21), 20, fraction)
    assert (np.abs(seen - want) < 4.5 * np.sqrt(want * (1 - want) / n) + 2 / n).all()


def test_thinned_poisson_parts_are_uncorrelated_and_stored_without_zeros() -> None:
    counts = sp.csr_matrix(np.random.default_rng(0).poisson(5.0, (300, 100)).astype(np.float32))
    a, b = thin(counts, 0.3, seed=2)
    assert abs(np.corrcoef(a.toarray().ravel(), b.toarray().ravel())[0, 1]) < 4 / np.sqrt(a.shape[0] * a.shape[1])
    assert (a.data > 0).all()
    assert (b.data > 0).all()
    again = thin(counts, 0.3, seed=2)[1]
    assert (again != b).nnz == 0


@pytest.mark.parametrize("sparse", [False, True])
def test_loss_is_the_negative_elbo(sparse) -> None:
    data, module = _data(), _module()
    x = torch.from_numpy(data.sample.csr().toarray())
    c = torch.from_numpy(data.sample.csr("counts").toarray())
    noise = torch.randn(c.shape[0], 3, generator=torch.Generator().manual_seed(1))
    batch = data.sample.batch(torch.device("cpu"), sparse=sparse)
    got = elbo_loss(module, batch, data.histogram, kl_weight=0.7, noise=noise)
    mean, log_var = module.rest.posterior(module.preactivations(x, None))
    posterior = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1)
    z = posterior.mean + noise * posterior.stddev
    rate = torch.softmax(module.logits(z, None), 1) * c.sum(1, keepdim=True)
    want = (0.7 * kl - nb_log_prob(c, rate, module.log_theta.exp()).sum(1)).mean()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)


def test_parts_of_a_step_add_up_to_it() -> None:
    """What several processes do: each a part, the mean of their gradients."""
    data, module = _data(), _module()
    noise = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    elbo = _fit.Elbo(module, data.histogram, 1.0)

    def gradients(*cuts: int) -> list[torch.Tensor]:
        module.zero_grad()
        parts = list(itertools.pairwise(cuts))
        for first, last in parts:
            batch = data.sample.cut(first, last).batch(torch.device("cpu"), sparse=True)
            (elbo(batch, noise[first:last], 40, len(parts)) / len(parts)).backward()
        return [p.grad.clone() for p in module.parameters()]

    for a, b in zip(gradients(0, 40), gradients(0, 13, 13, 40), strict=True):  # one part is empty
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_posterior_mean_is_what_the_encoder_gives() -> None:
    module = _module()
    a = torch.randn(5, 9)
    assert torch.equal(module.rest.posterior(a)[0], module.rest(a))


def test_held_out_likelihood_is_the_textbook_sum() -> None:
    codes = np.random.default_rng(0).integers(0, 2, 40)
    data, module = _data(codes), _module(n_sections=2)
    got = held_out_nll(module, data)
    with torch.no_grad():
        s = torch.from_numpy(codes)
        z = module.rest(module.preactivations(torch.from_numpy(data.sample.csr().toarray()), s))
        share = torch.softmax(module.logits(z, s), 1).double().numpy()
    c, theta = data.held_out.toarray(), module.log_theta.detach().exp().double().numpy()
    mean = share * c.sum(1, keepdims=True)
    want = -stats.nbinom.logpmf(c, theta, theta / (theta + mean)).sum(1).mean()
    assert got == pytest.approx(want, rel=1e-5)


def test_best_state_is_kept() -> None:
    data, module = _data(), _module()
    history, best = fit_module(module, data, _options(lr=0.05, max_epochs=12, patience=3))
    nlls = [r["validation_nll"] for r in history]
    again = held_out_nll(module, data)
    assert again == nlls[best]
    assert nlls[best] <= nlls[0]
    assert len(history) - 1 in (12, best + 3)
    assert not module.training


def test_never_worse_than_the_start() -> None:
    data, module = _data(), _module()
    fit_module(module, data, _options(max_epochs=30))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    _, best = fit_module(module, data, _options(lr=5.0, patience=2))
    assert best == 0
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_without_held_out_counts_the_last_state_is_kept() -> None:
    module = _module()
    history, best = fit_module(module, _data(held=False), _options())
    assert best == 3
    assert all(math.isnan(r["validation_nll"]) for r in history)
    assert history[3]["train_loss"] < history[1]["train_loss"]


def test_bit_for_bit() -> None:
    states = []
    for _ in range(2):
        torch.rand(3)  # the global generator does not matter
        module = _module()
        fit_module(module, _data(), _options())
        states.append(module.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_interruption_keeps_the_best_state(monkeypatch) -> None:
    data, module = _data(), _module()
    calls = []
    real = _fit.elbo_loss

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 13:  # in the third epoch of five steps
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(_fit, "elbo_loss", interrupted)
    with pytest.warns(UserWarning, match="interrupted in epoch 3; the state of epoch 2 is kept"):
        history, best = fit_module(module, data, _options(lr=3e-3))
    monkeypatch.undo()
    twin = _module()
    fit_module(twin, data, _options(lr=3e-3, max_epochs=2))
    assert best == 2
    assert len(history) == 3
    assert all(torch.equal(v, twin.state_dict()[k]) for k, v in module.state_dict().items())


def test_non_finite_loss_is_an_error() -> None:
    module = _module()
    with torch.no_grad():
        module.log_theta[0] = math.inf
    with pytest.raises(FloatingPointError, match=r"non-finite in epoch 1 with lr=0\.001"):
        fit_module(module, _data(held=False), _options())


def test_every_parameter_is_in_one_group_and_the_wide_layer_is_slow() -> None:
    module = SpotModule(
        900, n_latent=3, n_hidden=6, n_layers=1, n_sections=1, generator=torch.Generator().manual_seed(0)
    )
    groups = parameter_groups(module, 1e-2)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in module.parameters())
    rate = next(g["lr"] for g in groups if any(p is module.encoder_weight for p in g["params"]))
    assert rate == pytest.approx(1e-2 * 9 / 900)
