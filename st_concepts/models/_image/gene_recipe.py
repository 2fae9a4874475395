"""How genes become images and how a `GeneVAE` is fitted: the paper's recipe and ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GeneRecipe:
    """How images are made and fitted.

    Attributes
    ----------
    normalize, transform
        See `st_concepts.models._image.gene_images.gene_images`.
    side
        Smallest side of the raster in pixels; 0 takes what the spots need.
    masked
        Leave pixels without a spot out of the loss.
    min_spots
        Genes seen in fewer spots are not fitted on (all genes are embedded).
    warm_epochs
        Epochs of the warm start.
    warm_components
        Principal components that it aims at; further latent dimensions start at zero.
    max_epochs, batch_size, lr, schedule, kl_weight, validation_fraction
        Of the fit.
    """

    normalize: bool
    transform: Literal["sqrt", "none"]
    side: int
    masked: bool
    min_spots: int
    warm_epochs: int
    warm_components: int
    max_epochs: int
    batch_size: int
    lr: float
    schedule: Literal["constant", "one_cycle"]
    kl_weight: float
    validation_fraction: float


RECIPES: dict[str, GeneRecipe] = {
    "fast": GeneRecipe(
        normalize=True,
        transform="sqrt",
        side=0,
        masked=True,
        min_spots=10,
        warm_epochs=4,
        warm_components=10,
        max_epochs=3,
        batch_size=128,
        lr=1e-3,
        schedule="one_cycle",
        kl_weight=0.2,
        validation_fraction=0.05,
    ),
    # the published loss averages over 1024 pixels and 20 dimensions, with 0.5e-4 on twice the KL: in sums, 1024e-4 / 20
    "paper": GeneRecipe(
        normalize=False,
        transform="none",
        side=32,
        masked=False,
        min_spots=1,
        warm_epochs=0,
        warm_components=0,
        max_epochs=10,
        batch_size=64,
        lr=5e-4,
        schedule="constant",
        kl_weight=1024e-4 / 20,
        validation_fraction=0.0,
    ),
}
