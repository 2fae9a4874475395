"""What an attribution method is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch

from st_concepts._registry import Registry

if TYPE_CHECKING:
    from st_concepts.attribution._methods.forms import Form

T = TypeVar("T")
# pre-activations (n, n_hidden) and codes (n,) or None to latent means (n, n_latent)
Net = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
QUADRATURES = ("gausslegendre", "riemann_trapezoid", "riemann_middle", "riemann_left", "riemann_right")


@dataclass(frozen=True)
class Options:
    """Settings of the methods; each method reads the fields that its record names.

    Parameters
    ----------
    n_steps
        Points on the path from baseline to spot (`integrated_gradients`).
    quadrature
        ``"gausslegendre"``, ``"riemann_trapezoid"``, ``"riemann_middle"``, ``"riemann_left"`` or ``"riemann_right"``.
    n_samples
        Draws per spot (`smoothgrad`, `expected_gradients`).
    noise_sd
        Standard deviation of the noise, in units of the features (`smoothgrad`).
    seed
        Seed of the draws; the same spots in the same order give the same draws however they are batched.
    q
        Percentile (0 to 100) of activation x gradient below which `rectgrad` stops a gradient, per spot and layer,
        linearly interpolated. Kim et al. use 98, Brocki & Chung 95.
    tau
        A constant threshold instead of the percentile (`rectgrad`).
    modified
        Threshold the absolute value of activation x gradient (`rectgrad`).
    propagated_relevance
        Multiply the result by the input (`rectgrad`).
    epsilon
        Stabiliser of the denominators (`epsilon_lrp`).
    window
        Shape of the patch that is occluded together, without the batch dimension, in `explain` of a plain module
        (`occlusion`); `None` is a single element.
    """

    n_steps: int = 50
    quadrature: str = "gausslegendre"
    n_samples: int = 50
    noise_sd: float = 0.1
    seed: int | np.random.Generator = 0
    q: float = 95.0
    tau: float | None = None
    modified: bool = False
    propagated_relevance: bool = False
    epsilon: float = 1e-6
    window: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.n_steps < 2:
            raise ValueError(f"n_steps must be at least 2, not {self.n_steps}.")
        if self.quadrature not in QUADRATURES:
            raise ValueError(f"Unknown quadrature {self.quadrature!r}. Choose from: {', '.join(QUADRATURES)}.")
        if self.n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, not {self.n_samples}.")
        if not self.noise_sd >= 0:
            raise ValueError(f"noise_sd must not be negative, got {self.noise_sd}.")
        if not 0 <= self.q <= 100:
            raise ValueError(f"q is a percentile between 0 and 100, got {self.q}.")
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {self.epsilon}.")

    def used_by(self, method: Method) -> dict[str, object]:
        """The settings that ``method`` reads, to be stored with its result."""
        return {name: getattr(self, name) for name in method.options}


class Hidden(Protocol):
    """What random numbers are drawn for: the values that enter the net."""

    @property
    def hidden_shape(self) -> tuple[int, ...]:
        """Shape of what enters the net, of one spot."""

    @property
    def numpy_dtype(self) -> Any:
        """Type of the numbers."""

    def noise_factor(self) -> np.ndarray | None:
        """``F`` with ``F F^T`` the covariance that unit noise on the features has there; `None` is the identity."""


@dataclass(frozen=True)
class Pass:
    """Some spots on their way through an encoder.

    Attributes
    ----------
    net
        The encoder behind its linear first layer, or the whole of it.
    a
        What enters the net: pre-activations ``(n, n_hidden)``, or features where there is no linear first layer.
    start
        The same of the baseline of each spot, for forms that need it.
    codes
        Covariate codes ``(n,)`` or `None`.
    directions
        Directions in latent space, ``(m, n, n_latent)`` or ``(m, 1, n_latent)``.
    options
        Settings.
    draws
        Random numbers of the spots, as `Method.draws` gave them.
    factorised
        Whether ``a`` is the output of a linear layer.
    """

    net: Net
    a: torch.Tensor
    start: torch.Tensor | None
    codes: torch.Tensor | None
    directions: torch.Tensor
    options: Options
    draws: np.ndarray | None = None
    factorised: bool = True

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """``array`` where the spots are, in their type."""
        return torch.as_tensor(array).to(self.a)


def given(value: T | None, what: str) -> T:
    """``value``, which the engines give to the methods and forms that ask for it."""
    if value is None:
        raise ValueError(f"This method needs {what}, and there is none.")
    return value


@dataclass(frozen=True)
class Method:
    """An attribution method: what it is, what it needs, and what it sends back through a net.

    Subclass, implement `multipliers`, and register an instance: the engines, messages, tables and the command line
    follow from it.

    Attributes
    ----------
    name
        Name that users type.
    question
        The question that it answers, in one line.
    citation
        Where it comes from.
    form
        How multipliers on the pre-activations become a map over features; one of `FORMS`.
    linear_in_concept
        Whether the map of ``v1 + v2`` is the sum of their maps, so one pass per latent dimension serves all concepts.
    needs_baseline
        Whether the result is relative to a baseline or to reference spots.
    needs_relu
        Whether the encoder must contain rectified linear units.
    captum
        Name of captum's class of the same method, with which the tests compare; empty where captum has none that fits.
    runs_in_captum
        Whether captum runs it on a plain module, see `by_captum`.
    options
        Fields of `Options` that it reads.
    """

    name: str
    question: str
    citation: str
    form: Form
    linear_in_concept: bool = True
    needs_baseline: bool = False
    needs_relu: bool = False
    captum: str = ""
    runs_in_captum: bool = False
    options: tuple[str, ...] = ()

    def multipliers(self, spots: Pass) -> torch.Tensor:
        """What arrives at ``spots.a`` for each direction, ``(m, n, n_hidden)``."""
        raise NotImplementedError(f"{type(self).__name__} has no multipliers.")

    def effective_form(self, options: Options) -> Form:
        """Form of the result under ``options``."""
        return self.form

    def draws(self, hidden: Hidden, options: Options) -> Callable[[int], np.ndarray | None]:
        """Function that gives the random numbers of the next ``n`` spots, the same however the spots are batched."""
        return lambda n: None

    def n_drawn(self, options: Options) -> int:
        """Random numbers drawn for each value that enters the net."""
        return 0

    def by_captum(
        self, module: torch.nn.Module, score: Callable, x: torch.Tensor, start: torch.Tensor, options: Options
    ) -> torch.Tensor:
        """Attributions of a plain module's inputs ``x`` against ``start``, where `runs_in_captum`."""
        raise NotImplementedError(f"{type(self).__name__} does not run in captum.")

    @property
    def is_random(self) -> bool:
        """Whether random numbers are dealt spot by spot, so that all spots must be passed in order."""
        return "seed" in self.options


METHODS: Registry[Method] = Registry(
    "attribution method",
    Method,
    "st_concepts.attribution._methods",
    first=("gradient", "gradient_x_input", "integrated_gradients"),
)
register = METHODS.register
