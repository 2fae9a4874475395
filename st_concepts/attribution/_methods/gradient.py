"""The gradient of the score, as it is and times the input."""

from __future__ import annotations

import torch

from st_concepts.attribution._backward import pull_back
from st_concepts.attribution._methods.base import Method, Pass, register
from st_concepts.attribution._methods.forms import FORMS


class Gradient(Method):
    """One pass back through the net."""

    def multipliers(self, spots: Pass) -> torch.Tensor:
        """Gradient at the spots."""
        return pull_back(spots.net, spots.a, spots.codes, spots.directions)


register(
    Gradient(
        "gradient",
        "Which genes would change the score fastest, per unit of feature?",
        "Simonyan, Vedaldi & Zisserman 2013, arXiv 1312.6034",
        FORMS["gradient"],
        captum="Saliency",
    )
)
register(
    Gradient(
        "gradient_x_input",
        "How much does each expressed gene contribute, taking the gradient at the spot as constant?",
        "Shrikumar et al. 2016, arXiv 1605.01713",
        FORMS["input"],
        captum="InputXGradient",
    )
)
