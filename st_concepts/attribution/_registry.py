"""One frozen record per attribution method: error messages, tables and command line choices come from here."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

import pandas as pd

# How a method's map over genes follows from its multipliers D on the pre-activations and the first-layer weights W:
# "gradient"  D W          "input"  x * D W          "difference"  (x - b) * D W
# "expected"  x * D W minus the same for the drawn reference spots          "occlusion"  no multipliers at all
Form = Literal["gradient", "input", "difference", "expected", "occlusion"]


@dataclass(frozen=True)
class Method:
    """What one attribution method is and needs.

    Attributes
    ----------
    name
        Name that users type.
    question
        The question that it answers, in one line.
    citation
        Where it comes from.
    form
        How multipliers on the pre-activations become a map over features (see the head of this module).
    per_spot
        Whether a map per spot is defined (all methods here: a group's map is the mean over its spots).
    linear_in_concept
        Whether the map of ``v1 + v2`` is the sum of their maps, so one pass per latent dimension serves all concepts.
    needs_baseline
        Whether the result is relative to a baseline or to reference spots.
    needs_relu
        Whether the encoder must contain rectified linear units.
    factorised
        Whether it runs behind the linear first layer and multiplies by its weights afterwards, which is exact.
    captum
        Name of captum's class of the same method, with which the tests compare; empty where captum has none that fits.
    runs_in_captum
        Whether captum runs it where there is no linear first layer.
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
    per_spot: bool = True
    factorised: bool = True
    captum: str = ""
    runs_in_captum: bool = False
    options: tuple[str, ...] = ()


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method(
            "gradient",
            "Which genes would change the score fastest, per unit of feature?",
            "Simonyan, Vedaldi & Zisserman 2013, arXiv 1312.6034",
            "gradient",
            captum="Saliency",
        ),
        Method(
            "gradient_x_input",
            "How much does each expressed gene contribute, taking the gradient at the spot as constant?",
            "Shrikumar et al. 2016, arXiv 1605.01713",
            "input",
            captum="InputXGradient",
        ),
        Method(
            "integrated_gradients",
            "How is the score difference from the baseline divided among the genes?",
            "Sundararajan, Taly & Yan 2017, ICML, arXiv 1703.01365",
            "difference",
            needs_baseline=True,
            captum="IntegratedGradients",
            options=("n_steps", "quadrature"),
        ),
        Method(
            "expected_gradients",
            "How is the score difference from a population of reference spots divided among the genes?",
            "Erion et al. 2021, Nat Mach Intell 3:620, arXiv 1906.10670",
            "expected",
            needs_baseline=True,
            captum="GradientShap",
            options=("n_samples", "seed"),
        ),
        Method(
            "smoothgrad",
            "Which genes drive the score once the gradient is averaged over noisy copies of the spot?",
            "Smilkov et al. 2017, arXiv 1706.03825",
            "gradient",
            captum="NoiseTunnel",
            options=("n_samples", "noise_sd", "seed"),
        ),
        Method(
            "guided_backprop",
            "Which genes excite the units that raise the score, seen through active units only?",
            "Springenberg et al. 2014, arXiv 1412.6806",
            "gradient",
            linear_in_concept=False,
            needs_relu=True,
            captum="GuidedBackprop",
        ),
        Method(
            "deconvolution",
            "Which genes excite the units that raise the score, seen through all units?",
            "Zeiler & Fergus 2014, ECCV, arXiv 1311.2901",
            "gradient",
            linear_in_concept=False,
            needs_relu=True,
            captum="Deconvolution",
        ),
        Method(
            "rectgrad",
            "Which genes reach the score through the few most relevant units of each layer?",
            "Kim et al. 2019, Why are saliency maps noisy?, ICCV Workshops, arXiv 1902.04893",
            "gradient",
            linear_in_concept=False,
            needs_relu=True,
            options=("q", "tau", "modified", "propagated_relevance"),
        ),
        Method(
            "epsilon_lrp",
            "How does the score, passed back layer by layer in proportion to contributions, arrive at the genes?",
            "Bach et al. 2015, PLoS ONE 10:e0130140; Ancona et al. 2018, ICLR, arXiv 1711.06104",
            "input",
            captum="LRP",
            options=("epsilon",),
        ),
        Method(
            "deeplift",
            "How is the score difference from the baseline divided among the genes, unit by unit (rescale rule)?",
            "Shrikumar, Greenside & Kundaje 2017, ICML, arXiv 1704.02685",
            "difference",
            needs_baseline=True,
            captum="DeepLift",
            runs_in_captum=True,
        ),
        Method(
            "occlusion",
            "By how much does the score fall when one gene alone is set to its baseline?",
            "Zeiler & Fergus 2014, ECCV, arXiv 1311.2901",
            "occlusion",
            needs_baseline=True,
            captum="Occlusion",
            runs_in_captum=True,
            options=("window",),
        ),
    )
}


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
    seed: int = 0
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


QUADRATURES = ("gausslegendre", "riemann_trapezoid", "riemann_middle", "riemann_left", "riemann_right")


def get_method(name: str | Method) -> Method:
    """Record of the method called ``name``.

    Raises
    ------
    ValueError
        If there is no such method; the message lists the names.

    Examples
    --------
    >>> get_method("gradient").linear_in_concept
    True
    """
    if isinstance(name, Method):
        return name
    if name in METHODS:
        return METHODS[name]
    close = difflib.get_close_matches(str(name).lower().replace("-", "_").replace(" ", "_"), METHODS, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"Unknown attribution method {name!r}.{hint} Available: {', '.join(METHODS)}.")


def effective_form(method: Method, options: Options) -> Form:
    """Form of the result under ``options``: rectified gradients turn into x * D W with propagated relevance."""
    return "input" if "propagated_relevance" in method.options and options.propagated_relevance else method.form


def methods_table() -> pd.DataFrame:
    """Table of all methods, indexed by name.

    Returns
    -------
    One row per method with the columns ``question``, ``linear_in_concept``, ``needs_baseline``, ``needs_relu``,
    ``per_spot``, ``factorised``, ``captum``, ``runs_in_captum``, ``options`` and ``citation``.

    Examples
    --------
    >>> methods_table().loc["rectgrad", "needs_relu"]
    np.True_
    """
    columns = ("question", "linear_in_concept", "needs_baseline", "needs_relu", "per_spot", "factorised", "captum")
    columns += ("runs_in_captum",)
    rows = {
        m.name: {**{c: getattr(m, c) for c in columns}, "options": ", ".join(m.options), "citation": m.citation}
        for m in METHODS.values()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def methods_markdown() -> str:
    """The same table in Markdown, for the documentation.

    Examples
    --------
    >>> methods_markdown().splitlines()[1].startswith("|---")
    True
    """
    table = methods_table().reset_index()
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    for row in table.itertuples(index=False):
        cells = [("yes" if c else "no") if isinstance(c, bool) else str(c) for c in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
