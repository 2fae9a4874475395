"""`GeneVAE`: genes as samples, each an image over the section."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData

from st_concepts._counts.check import check_counts, count_matrix
from st_concepts._counts.elsewhere import model_layer
from st_concepts._counts.frames import column
from st_concepts._counts.positions import positions
from st_concepts._counts.rows import as_csr
from st_concepts._counts.sections import sections_of
from st_concepts._slots import KEYS
from st_concepts.models import _checkpoint
from st_concepts.models._image.base import ImageModel
from st_concepts.models._image.conv import ConvConfig, ConvEncoder, ConvVAE
from st_concepts.models._image.fit import ImageFitOptions, check_options, fit_images
from st_concepts.models._image.gene_images import gene_images, gene_rows, loader, principal_scores
from st_concepts.models._image.gene_recipe import RECIPES
from st_concepts.models._image.raster import Raster, make_raster
from st_concepts.models._image.warm import warm_start
from st_concepts.models._spot.encoder import as_device

_MIN_STEPS = 120  # with few genes an epoch is short, so epochs are added until the fit has made this many steps
_MIN_GENES = 20


class GeneVAE(ImageModel):
    r"""Convolutional variational autoencoder of genes (Brocki & Chung 2019): every gene is an image of the section.

    Spots become pixels of a raster that is chosen from their positions and reported in `raster`; counts of spots in
    the same pixel are summed; pixels without a spot count neither in the loss nor in any map. Each gene is scaled to
    its maximum, and the loss is binary cross-entropy + ``kl_weight`` x KL, summed over pixels and latent dimensions.

    Parameters
    ----------
    adata
        Raw counts of one section with positions in ``obsm["spatial"]``. Kept by reference, never changed.
    layer
        Layer that holds the counts; `None` for ``adata.X``.
    spatial_key
        Entry of ``obsm`` with the positions: array coordinates or image pixels.
    recipe
        ``"fast"``: counts are divided by the depth of their pixel and square-rooted, and the fit starts at the
        principal components of the images; about 40 CPU seconds for the 16,573 genes of the paper's section.
        ``"paper"``: 32 x 32 raster, raw counts over their maximum, every pixel in the loss, random weights, Adam with
        5e-4, batches of 64, 10 epochs. The architecture is the paper's in both.
    pixel_size
        Extent of a pixel in the unit of the positions, in place of the choice.
    max_side
        Longest side of the raster; pixels are enlarged until it holds.
    n_latent
        Number of latent dimensions.
    channels, kernel, hidden
        Convolution blocks (each halves the image), their kernel, and the dense layers behind them.
    seed
        Seed of everything random.

    Raises
    ------
    KeyError
        ``layer`` or ``spatial_key`` is not there.
    ValueError
        Anything but raw counts, several sections on top of each other, positions without extent, too few genes.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=120, n_vars=150, n_markers=10, seed=0)
    >>> model = stc.GeneVAE(adata, n_latent=5).fit(max_epochs=1, progress=False)
    >>> model.raster.kind, model.embed(adata.var_names[:3]).shape
    ('hexagonal', (3, 5))
    """

    _kind = "GeneVAE"

    def __init__(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        spatial_key: str = KEYS.SPATIAL,
        recipe: Literal["fast", "paper"] = "fast",
        pixel_size: float | tuple[float, float] | None = None,
        max_side: int = 80,
        n_latent: int = 20,
        channels: Sequence[int] = (16, 32, 64),
        kernel: int | Sequence[int] = 4,
        hidden: Sequence[int] = (256, 256),
        seed: int = 0,
    ) -> None:
        if recipe not in RECIPES:
            raise ValueError(f"recipe={recipe!r} is unknown; use one of: {', '.join(map(repr, RECIPES))}.")
        check_counts(adata, layer)
        if not adata.obs_names.is_unique:
            twice = adata.obs_names[adata.obs_names.duplicated()][0]
            raise ValueError(
                f"adata.obs_names holds {twice!r} more than once, but GeneVAE finds the pixel of a spot by its name. "
                "Call adata.obs_names_make_unique() first."
            )
        raster = make_raster(_positions(adata, spatial_key), pixel_size=pixel_size, max_side=max_side)
        side = RECIPES[recipe].side
        self._raster = raster.padded((side, side)) if side else raster
        self._adata = adata
        self._names = pd.Index(adata.obs_names.astype(str))
        self._config = {"layer": layer, "recipe": recipe, "seed": int(seed)}
        self._conv = ConvConfig.make((1, *self._raster.shape), n_latent, channels, kernel, hidden)
        self._history = []

    def __repr__(self) -> str:
        state = f"fitted, {self.fingerprint}" if self._module is not None else "not fitted"
        return f"GeneVAE({self._raster!r}, n_latent={self.n_latent}, recipe={self._config['recipe']!r}; {state})"

    def fit(
        self,
        *,
        max_epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        kl_weight: float | None = None,
        validation_fraction: float | None = None,
        patience: int = 3,
        device: str | torch.device = "auto",
        progress: bool = True,
    ) -> Self:
        """Fit on the images of the genes; what is not given follows the recipe.

        Parameters
        ----------
        max_epochs
            Most epochs, after the warm start where the recipe has one.
        batch_size, lr
            Genes a step, largest learning rate of Adam.
        kl_weight
            Weight of the KL term against the cross-entropy summed over pixels; 1 is the evidence lower bound.
        validation_fraction
            Share of the genes that only judge the fit: the state with their smallest loss, the warm start among them,
            is kept. 0 keeps the last state.
        patience
            Epochs without improvement after which to stop.
        device
            ``"auto"`` takes a CUDA device where there is one.
        progress
            Show a progress bar.

        Returns
        -------
        The model itself; ``history`` has a row per epoch.

        Raises
        ------
        ValueError
            Too few genes are seen in enough spots, or an option is out of range.
        """
        recipe = RECIPES[self._config["recipe"]]
        batch_size = recipe.batch_size if batch_size is None else batch_size
        share = recipe.validation_fraction if validation_fraction is None else validation_fraction
        check_options(share, batch_size, patience, max_epochs)
        images, seen = self._images(self._data(None), None)
        seed = self._config["seed"]
        rows = _enough_spots(seen, recipe.min_spots)
        np.random.default_rng(seed).shuffle(rows)
        n_held = round(share * len(rows))
        held, train = rows[:n_held], rows[n_held:]
        steps = max(1, len(train) // batch_size)
        module = ConvVAE(self._conv, seed=seed).to(as_device(device))
        mask = torch.from_numpy(self._raster.mask.astype(np.float32)) if recipe.masked else None
        load = loader(images, self._raster.shape)
        if recipe.warm_epochs:
            warm_start(
                module,
                load,
                self._targets(images, train, recipe.warm_components),
                train,
                mask=mask,
                n_epochs=max(recipe.warm_epochs, -(-_MIN_STEPS // steps)),
                batch_size=batch_size,
                lr=2 * recipe.lr,
                seed=seed,
            )
        if max_epochs is None:
            max_epochs = max(recipe.max_epochs, -(-_MIN_STEPS // steps))
        options = ImageFitOptions(
            max_epochs=max_epochs,
            batch_size=batch_size,
            lr=recipe.lr if lr is None else lr,
            schedule=recipe.schedule,
            kl_weight=recipe.kl_weight if kl_weight is None else kl_weight,
            patience=patience,
            min_delta=0.0,
            seed=seed,
            progress=progress,
            name="GeneVAE",
        )
        self._become(module, fit_images(module, load, train, held, options, mask=mask))
        return self

    def _targets(self, images: sp.csr_matrix, rows: np.ndarray, k: int) -> np.ndarray:
        n_pixels = int(self._raster.mask.sum())
        k = min(k, self.n_latent, len(rows) - 1, n_pixels - 1)
        targets = np.zeros((len(rows), self.n_latent), dtype=np.float32)
        targets[:, :k] = principal_scores(images, rows, k, self._config["seed"])
        return targets

    # --------------------------------------------------------------------------------------------- using it

    @property
    def raster(self) -> Raster:
        """The raster: shape, pixel size and kind; ``raster.report()`` as a dictionary."""
        return self._raster

    @property
    def encoder(self) -> ConvEncoder:
        """The torch encoder from images ``(n, 1, h, w)``: what `st_concepts.attribution.explain` takes."""
        return self.module.encoder

    @property
    def layer(self) -> str | None:
        """Layer that the counts came from; `None` for X."""
        return self._config["layer"]

    def images(
        self, genes: Sequence[str] | None = None, adata: AnnData | None = None, *, layer: str | None = None
    ) -> np.ndarray:
        """Images of genes as the model sees them, float32 ``(n_genes, height, width)`` between 0 and 1."""
        adata = self._data(adata)
        images, _ = self._images(adata, layer, gene_rows(adata, genes))
        return images.toarray().reshape(-1, *self._raster.shape)

    @torch.no_grad()
    def embed(
        self,
        genes: Sequence[str] | None = None,
        adata: AnnData | None = None,
        *,
        layer: str | None = None,
        batch_size: int = 512,
    ) -> np.ndarray:
        """Posterior mean of genes, float32 ``(n_genes, n_latent)``.

        Parameters
        ----------
        genes
            Names; by default all genes of ``adata``.
        adata
            The section; by default the one that the model was made with.
        layer
            Layer with the counts; by default that of the model.
        batch_size
            Genes a batch.

        Raises
        ------
        KeyError
            Unknown genes.
        ValueError
            ``adata`` is not the section of the model.
        """
        adata = self._data(adata)
        images, _ = self._images(adata, layer, gene_rows(adata, genes))
        load = loader(images, self._raster.shape)
        starts = range(0, images.shape[0], batch_size)
        parts = [self._embed(load(np.arange(i, min(i + batch_size, images.shape[0])))) for i in starts]
        return np.concatenate(parts) if parts else np.empty((0, self.n_latent), dtype=np.float32)

    def to_spots(self, images: np.ndarray, adata: AnnData | None = None) -> np.ndarray:
        """Value of each spot's pixel: ``(n, height, width)`` to ``(n_obs, n)``, in the order of ``adata``'s spots."""
        values = self._raster.to_spots(np.asarray(images))
        return values.T if adata is None else values[:, self._order(adata)].T

    def spot_images(self, adata: AnnData | None = None, *, layer: str | None = None) -> sp.csr_matrix:
        """Images of all genes read back at the spots, CSR float32 ``(n_vars, n_obs)`` in the order of ``adata``."""
        adata = self._data(adata)
        images, _ = self._images(adata, layer)
        return images.tocsc()[:, self._raster.pixel[self._order(adata)]].tocsr()

    def seen_in(self, adata: AnnData | None = None, *, layer: str | None = None) -> np.ndarray:
        """In how many spots each gene was seen, int64 ``(n_vars,)``."""
        adata = self._data(adata)
        counts = as_csr(count_matrix(adata, model_layer(adata, self.layer, layer))[:])
        return np.bincount(counts.indices[counts.data > 0], minlength=counts.shape[1]).astype(np.int64)

    def _images(
        self, adata: AnnData, layer: str | None, rows: np.ndarray | None = None
    ) -> tuple[sp.csr_matrix, np.ndarray]:
        recipe = RECIPES[self._config["recipe"]]
        order = self._order(adata)
        counts = as_csr(count_matrix(adata, model_layer(adata, self.layer, layer))[:])
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        # all genes, since the depth of a pixel is that of all of them
        images, seen = gene_images(counts[back], self._raster, normalize=recipe.normalize, transform=recipe.transform)
        return (images, seen) if rows is None else (images[rows], seen[rows])

    def _order(self, adata: AnnData) -> np.ndarray:
        """Position of each spot of ``adata`` among those of the model."""
        order = self._names.get_indexer(adata.obs_names.astype(str))
        if len(order) != len(self._names) or (order < 0).any():
            raise ValueError(
                f"This GeneVAE was made for a section of {len(self._names)} spots, of which adata has "
                f"{int((order >= 0).sum())} among its {adata.n_obs}. A gene's image needs the whole section: pass the "
                "AnnData that the model was made with, or make a new GeneVAE(adata)."
            )
        return order

    # ------------------------------------------------------------------------------------------- on the disk

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, configuration, raster and spot names to one file, through a temporary one."""
        raster = vars(self._raster) | {"pixel": self._raster.pixel.tolist()}
        _checkpoint.write(path, self._kind, self.module.state_dict(), self._header() | {"raster": raster})

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], adata: AnnData | None = None, *, device: str | torch.device = "auto"
    ) -> Self:
        """Read a model that `save` wrote. Nothing in the file is executed.

        Parameters
        ----------
        path
            The file.
        adata
            The section of the model, for the methods that take none; its spots are checked.
        device
            ``"auto"`` takes a CUDA device where there is one.

        Raises
        ------
        FileNotFoundError, ValueError
            No such file; not a model file, truncated, changed, or from a newer version.
        ValueError
            ``adata`` is another section, or holds no raw counts.
        """
        model, header = cls._read(path, as_device(device))
        r = header["raster"]
        model._raster = Raster(
            shape=tuple(r["shape"]),
            pixel=np.array(r["pixel"], dtype=np.int64),
            pixel_size=tuple(r["pixel_size"]),
            origin=tuple(r["origin"]),
            kind=r["kind"],
            coarsened=r["coarsened"],
        )
        if adata is not None:
            model._order(adata)
            check_counts(adata, model_layer(adata, model.layer, None))
            model._adata = adata
        return model


def _enough_spots(seen: np.ndarray, min_spots: int) -> np.ndarray:
    """Genes to fit on; `ValueError` where they are too few."""
    rows = np.flatnonzero(seen >= min_spots)
    if len(rows) < _MIN_GENES:
        raise ValueError(
            f"Only {len(rows)} of {len(seen)} genes are seen in at least {min_spots} spots; GeneVAE learns from genes "
            f"and needs {_MIN_GENES}. Give it all genes of the section, not a selection."
        )
    return rows


def _positions(adata: AnnData, key: str) -> np.ndarray:
    if key not in adata.obsm:
        have = ", ".join(map(repr, adata.obsm)) or "none"
        raise KeyError(f"adata.obsm[{key!r}] is missing (there: {have}); name the entry with x and y: spatial_key=...")
    found = sections_of(adata)
    if found.several:
        first = column(adata.obs, found.key).iloc[0]
        raise ValueError(
            f"adata holds {len(found.names)} sections (obs[{found.key!r}]) that would lie on top of each other in "
            f"one raster. Make a GeneVAE of each: adata[adata.obs[{found.key!r}] == {first!r}].copy()."
        )
    return positions(adata, key=key)
