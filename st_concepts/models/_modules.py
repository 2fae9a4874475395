"""The torch modules of `SpotVAE`: residual encoder, residual decoder, nothing of AnnData."""

from __future__ import annotations

import torch
from torch import nn


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
        first = linear(n_vars, n_first, generator)
        self.weight = nn.Parameter(first.weight.detach().clone())
        self.bias = nn.Parameter(torch.zeros(n_sections, n_first))
        self.rest = ResidualHead(n_latent, n_hidden, n_layers, generator)
        self.loadings = nn.Parameter(linear(n_latent, n_vars, generator).weight.detach().T.clone() * 0.1)
        self.log_rate = nn.Parameter(torch.zeros(n_sections, n_vars))
        decoder: list[nn.Module] = []
        for i in range(n_layers):
            decoder += [linear(n_latent if i == 0 else n_hidden, n_hidden, generator), nn.ReLU()]
        self.decoder = nn.Sequential(*decoder, linear(n_hidden, n_vars, generator, zero=True))
        self.log_theta = nn.Parameter(torch.full((n_vars,), 2.3))

    def preactivations(self, x: torch.Tensor, codes: torch.Tensor | None) -> torch.Tensor:
        """First layer: dense ``(n, n_vars)`` to ``(n, n_latent + n_hidden)``."""
        bias = self.bias[0] if codes is None else self.bias[codes]
        return x @ self.weight.T + bias

    def logits(self, z: torch.Tensor, codes: torch.Tensor | None) -> torch.Tensor:
        """Latent ``(n, n_latent)`` to logits ``(n, n_vars)``."""
        b = self.log_rate[0] if codes is None else self.log_rate[codes]
        hidden = self.decoder[:-1](z)
        last = self.decoder[-1]
        # one product for the linear and the residual part
        stacked = torch.cat([self.loadings, last.weight.T], dim=0)
        return torch.cat([z, hidden], dim=1) @ stacked + (b + last.bias)
