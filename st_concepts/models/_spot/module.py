"""The torch modules of `SpotVAE`: residual encoder, residual decoder, nothing of AnnData."""

from __future__ import annotations

import torch
from torch import nn

from st_concepts._counts.sparse import SparseRows, sparse_linear


def linear(n_in: int, n_out: int, generator: torch.Generator, *, zero: bool = False) -> nn.Linear:
    """``nn.Linear`` with He-uniform weights drawn from ``generator`` (the global RNG is left alone), or all zero."""
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out)
    with torch.no_grad():
        layer.bias.zero_()
        if zero:
            layer.weight.zero_()
        else:
            bound = (6.0 / n_in) ** 0.5
            layer.weight.uniform_(-bound, bound, generator=generator)
    return layer


class ResidualHead(nn.Module):
    """What follows the stacked first layer: ``mu = a[:, :k] + out(relu(...relu(a[:, k:])))``.

    ``a`` are the pre-activations ``(n, k + n_hidden)``. ``out`` starts at zero, so the encoder starts linear.
    """

    def __init__(self, n_latent: int, n_hidden: int, n_layers: int, generator: torch.Generator) -> None:
        super().__init__()
        self.n_latent = n_latent
        layers: list[nn.Module] = [nn.ReLU()]
        for _ in range(n_layers - 1):
            layers += [linear(n_hidden, n_hidden, generator), nn.ReLU()]
        self.hidden = nn.Sequential(*layers)
        self.out = linear(n_hidden, n_latent, generator, zero=True)
        self.log_var = linear(n_hidden, n_latent, generator, zero=True)

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        """Posterior mean ``(n, n_latent)``."""
        return a[:, : self.n_latent] + self.out(self.hidden(a[:, self.n_latent :]))

    def posterior(self, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and log variance, each ``(n, n_latent)``."""
        h = self.hidden(a[:, self.n_latent :])
        return a[:, : self.n_latent] + self.out(h), self.log_var(h).clamp(-12.0, 6.0)


class SpotModule(nn.Module):
    """Encoder and decoder of `SpotVAE`.

    encoder  ``a = x W1' + bias1[section]``, latent mean ``= rest(a)``
    decoder  ``logits = b[section] + z W_d + g(z)``; proportions are their softmax

    Parameters
    ----------
    n_vars, n_latent, n_hidden, n_layers
        Sizes; ``n_layers`` counts the hidden layers of each residual net.
    n_sections
        Rows of the two section tables.
    generator
        Source of the initial weights.
    """

    def __init__(
        self, n_vars: int, *, n_latent: int, n_hidden: int, n_layers: int, n_sections: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        n_first = n_latent + n_hidden
        self.n_latent = n_latent
        first = linear(n_vars, n_first, generator)
        # genes first: a sparse batch reads whole rows
        self.encoder_weight = nn.Parameter(first.weight.detach().T.contiguous())
        self.bias = nn.Parameter(torch.zeros(n_sections, n_first))
        self.rest = ResidualHead(n_latent, n_hidden, n_layers, generator)
        loadings = linear(n_latent, n_vars, generator).weight.detach().T * 0.1
        # W_d over the last layer of g, which starts at zero: one product for both
        self.decoder_weight = nn.Parameter(torch.cat([loadings, torch.zeros(n_hidden, n_vars)]))
        self.decoder_bias = nn.Parameter(torch.zeros(n_vars))
        self.log_rate = nn.Parameter(torch.zeros(n_sections, n_vars))
        hidden: list[nn.Module] = []
        for i in range(n_layers):
            hidden += [linear(n_latent if i == 0 else n_hidden, n_hidden, generator), nn.ReLU()]
        self.decoder_hidden = nn.Sequential(*hidden)
        self.log_theta = nn.Parameter(torch.full((n_vars,), 2.3))

    @property
    def weight(self) -> torch.Tensor:
        """Weight of the first layer ``(n_latent + n_hidden, n_vars)``, a view."""
        return self.encoder_weight.T

    @property
    def loadings(self) -> torch.Tensor:
        """``W_d``, ``(n_latent, n_vars)``, a view."""
        return self.decoder_weight[: self.n_latent]

    def preactivations(self, x: torch.Tensor | SparseRows, codes: torch.Tensor | None) -> torch.Tensor:
        """First layer: features ``(n, n_vars)``, dense or sparse, to ``(n, n_latent + n_hidden)``."""
        bias = self.bias[0] if codes is None else self.bias[codes]
        if isinstance(x, SparseRows):
            return sparse_linear(x, self.encoder_weight) + bias
        return x @ self.encoder_weight + bias

    def logits(self, z: torch.Tensor, codes: torch.Tensor | None) -> torch.Tensor:
        """Latent ``(n, n_latent)`` to logits ``(n, n_vars)``."""
        stacked = torch.cat([z, self.decoder_hidden(z)], dim=1)
        if codes is None:
            return torch.addmm(self.log_rate[0] + self.decoder_bias, stacked, self.decoder_weight)
        return stacked @ self.decoder_weight + (self.log_rate + self.decoder_bias)[codes]
