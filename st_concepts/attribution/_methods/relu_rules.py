"""Rules for rectified units: guided backpropagation, deconvolution, rectified gradients."""

from __future__ import annotations

import torch

from st_concepts.attribution._backward import RELU, BackwardRule, pull_back
from st_concepts.attribution._methods.base import Method, Options, Pass, register
from st_concepts.attribution._methods.forms import FORMS, Form


def percentile(values: torch.Tensor, q: float) -> torch.Tensor:
    """Linearly interpolated ``q``-th percentile of each row of ``values`` ``(n, m)``, as a column ``(n, 1)``."""
    # torch.quantile refuses more than 16 million elements, which a batch of feature maps can hold
    ordered = values.sort(dim=1).values
    position = q / 100 * (values.shape[1] - 1)
    low = int(position)
    high = min(low + 1, values.shape[1] - 1)
    return torch.lerp(ordered[:, [low]], ordered[:, [high]], position - low)


class ReluRule(Method):
    """A method that is a rule for rectified units."""

    def rule(self, z: torch.Tensor, y: torch.Tensor, g: torch.Tensor, options: Options) -> torch.Tensor:
        """Gradient w.r.t. the input ``z`` of the units from their output ``y`` and incoming gradient ``g``."""
        raise NotImplementedError

    def multipliers(self, spots: Pass) -> torch.Tensor:
        """The gradient under the rule."""
        rule = BackwardRule(lambda z, y, g: self.rule(z, y, g, spots.options), RELU, name=self.name)
        out = pull_back(spots.net, spots.a, spots.codes, spots.directions, rule)
        if self.needs_relu and rule.calls == 0:
            raise ValueError(
                f"{self.name} needs rectified linear units (ReLU), but none was met while running the encoder. "
                "Use gradient, smoothgrad or integrated_gradients instead."
            )
        return out


class GuidedBackprop(ReluRule):
    """Positive gradients through active units (Springenberg et al. 2014)."""

    def rule(self, z: torch.Tensor, y: torch.Tensor, g: torch.Tensor, options: Options) -> torch.Tensor:
        """Positive, and the unit is active."""
        return g.clamp(min=0) * (z > 0)


class Deconvolution(ReluRule):
    """Positive gradients through all units (Zeiler & Fergus 2014)."""

    def rule(self, z: torch.Tensor, y: torch.Tensor, g: torch.Tensor, options: Options) -> torch.Tensor:
        """Positive."""
        return g.clamp(min=0)


class RectGrad(ReluRule):
    """Gradients only where activation x gradient exceeds a threshold (Kim et al. 2019, section 3)."""

    def rule(self, z: torch.Tensor, y: torch.Tensor, g: torch.Tensor, options: Options) -> torch.Tensor:
        """Above the percentile of the spot and layer, or the constant threshold."""
        relevance = (y * g).flatten(1)
        if options.modified:
            relevance = relevance.abs()
        keep = relevance > (percentile(relevance, options.q) if options.tau is None else options.tau)
        return torch.where(keep.view_as(g), g, torch.zeros((), dtype=g.dtype, device=g.device))

    def effective_form(self, options: Options) -> Form:
        """Times the input with propagated relevance."""
        return FORMS["input"] if options.propagated_relevance else self.form


register(
    GuidedBackprop(
        "guided_backprop",
        "Which genes excite the units that raise the score, seen through active units only?",
        "Springenberg et al. 2014, arXiv 1412.6806",
        FORMS["gradient"],
        linear_in_concept=False,
        needs_relu=True,
        captum="GuidedBackprop",
    )
)
register(
    Deconvolution(
        "deconvolution",
        "Which genes excite the units that raise the score, seen through all units?",
        "Zeiler & Fergus 2014, ECCV, arXiv 1311.2901",
        FORMS["gradient"],
        linear_in_concept=False,
        needs_relu=True,
        captum="Deconvolution",
    )
)
register(
    RectGrad(
        "rectgrad",
        "Which genes reach the score through the few most relevant units of each layer?",
        "Kim et al. 2019, Why are saliency maps noisy?, ICCV Workshops, arXiv 1902.04893",
        FORMS["gradient"],
        linear_in_concept=False,
        needs_relu=True,
        options=("q", "tau", "modified", "propagated_relevance"),
    )
)
