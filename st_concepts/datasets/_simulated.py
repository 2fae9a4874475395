"""A layered section with planted truth: markers, smooth nuisance genes, iid genes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from st_concepts._slots import KEYS

from ._registry import LAYER_COLORS, LAYERS

# share of spots per layer, from the surface inwards; near that of the real sections
_SHARES = (0.15, 0.33, 0.12, 0.10, 0.30)
_KINDS = ("marker", "smooth", "iid")
# genes that are dense at a time; part of the random stream, so not a setting
_BLOCK = 128
# random Fourier features of a smooth field
_WAVES = 48


class _Genes(NamedTuple):
    """Truth per gene, all of length n_vars."""

    names: np.ndarray
    kind: np.ndarray  # index into _KINDS
    layer: np.ndarray  # index into LAYERS, -1 for none
    base: np.ndarray  # relative expression outside the marked layer
    lfc: np.ndarray  # natural log
    theta: np.ndarray  # inverse dispersion: variance = mean + mean**2 / theta


def simulated_bulb(
    n_obs: int = 600,
    n_vars: int = 1000,
    *,
    seed: int = 0,
    n_sections: int = 1,
    n_markers: int = 20,
    effect: float = 1.0,
    n_smooth: int | None = None,
    smooth_sd: float = 0.6,
    smooth_scale: float = 0.35,
    density: float = 0.25,
    depth_sd: float = 0.35,
    section_sd: float = 0.15,
    unlabelled: float = 0.0,
    grid: str = "hex",
) -> AnnData:
    """Simulate layered sections that resemble the olfactory bulb, with the truth kept in ``var`` and ``obs``.

    Each section is a round piece of tissue with an uneven outline, whose layers ONL, GL, OPL, MCL, GCL follow each
    other from the rim to the centre. Counts are negative binomial with mean
    ``depth[spot] * base[gene] * exp(log fold change in the marked layer, or the smooth field)``. Needs no files.

    Parameters
    ----------
    n_obs, n_vars
        Number of spots (all sections together) and genes.
    seed
        The same seed gives the same bits (with one version of numpy, on one kind of processor).
    n_sections
        Number of sections, side by side in ``obsm["spatial"]``; their outlines, depths and gene levels differ.
    n_markers
        Planted markers per layer.
    effect
        Mean log fold change (natural log) of a marker in its layer; single markers are within 30% of it.
    n_smooth
        Number of nuisance genes that follow a smooth random field unrelated to the layers; by default a tenth of the
        genes, as far as the markers leave room.
    smooth_sd, smooth_scale
        Standard deviation of the field on the log scale, and its length scale in radii of the section.
    density
        Expected share of nonzero counts, in (0, 1); sets the sequencing depth. The real sections have 0.24-0.29.
    depth_sd
        Standard deviation of the log depth of spots; half of its variance is smooth in space, as in real sections.
    section_sd
        Standard deviation of the log level of a gene between sections (of no effect for one section).
    unlabelled
        Share of spots whose ``obs["layer"]`` is NaN; the truth stays in ``obs["true_layer"]``.
    grid
        ``"hex"`` or ``"square"``.

    Returns
    -------
    AnnData, n_obs x n_vars, with

    - ``X``: counts, integer-valued float32 CSR,
    - ``obs``: ``layer`` and ``true_layer`` (ordered categorical), ``section`` (categorical), ``array_x``, ``array_y``
      (pitch 1), ``true_depth`` (expected counts of a spot were all genes at their base level),
    - ``var``: ``kind`` (``marker``, ``smooth``, ``iid``), ``marker_of`` (categorical, NaN for none),
      ``log_fold_change`` (natural log, in the marked layer; 0 for the rest), ``base`` (relative expression, sum 1),
    - ``obsm["spatial"]``: coordinates, float64,
    - ``uns["layer_colors"]``, ``uns["simulation"]``: the parameters.

    Raises
    ------
    ValueError
        If a parameter is out of range, or the genes do not suffice for the markers and smooth genes asked for.

    Notes
    -----
    The markers of all layers have the same set of base levels and fold changes, so the expected total of a spot says
    nothing about its layer. Smooth fields are random Fourier features of a Gaussian kernel (Rahimi & Recht 2007).
    Genes are generated in blocks; memory is that of the nonzero counts and a few blocks of ``n_obs x 128``.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=300, n_vars=200, seed=1)
    >>> adata.obs["layer"].cat.categories.tolist()
    ['ONL', 'GL', 'OPL', 'MCL', 'GCL']
    >>> adata.var["kind"].value_counts().to_dict()
    {'marker': 100, 'iid': 80, 'smooth': 20}
    """
    n_smooth = _check(locals())
    layout_rng, gene_rng, depth_rng, *section_rngs = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3 + n_sections)
    )
    section = np.sort(np.arange(n_obs) % n_sections)
    array = np.empty((n_obs, 2))
    unit = np.empty((n_obs, 2))
    layer = np.empty(n_obs, dtype=np.int64)
    for s in range(n_sections):
        here = section == s
        array[here], unit[here], layer[here] = _layout(int(here.sum()), grid, layout_rng)
    spatial = array.copy()
    # side by side with a gap, so that no spot has neighbours in another section
    width = np.ptp(array[:, 0]) + 5.0
    spatial[:, 0] += section * width

    genes = _genes(n_vars, n_markers, n_smooth, effect, gene_rng)
    log_depth = _log_depth(unit, section, depth_sd, depth_rng)
    shift = np.stack([rng.normal(0.0, section_sd if n_sections > 1 else 0.0, n_vars) for rng in section_rngs])
    depth = np.exp(log_depth) * _depth_for(density, np.exp(log_depth), genes)
    counts = _counts(genes, depth, layer, section, unit, shift, smooth_sd, smooth_scale, seed)

    true_layer = pd.Categorical.from_codes(layer, categories=list(LAYERS), ordered=True)
    labels = true_layer.copy()
    labels[layout_rng.permutation(n_obs)[: round(unlabelled * n_obs)]] = np.nan
    names = [f"sim_{s + 1}" for s in range(n_sections)]
    obs = pd.DataFrame(
        {
            "layer": labels,
            "true_layer": true_layer,
            KEYS.BATCH: pd.Categorical.from_codes(section, categories=names),
            "array_x": array[:, 0],
            "array_y": array[:, 1],
            "true_depth": depth,
        },
        index=pd.Index([f"{names[s]}_spot{i:05d}" for i, s in enumerate(section)]),
    )
    var = pd.DataFrame(
        {
            "kind": pd.Categorical.from_codes(genes.kind, categories=list(_KINDS)),
            "marker_of": pd.Categorical.from_codes(genes.layer, categories=list(LAYERS)),
            "log_fold_change": genes.lfc,
            "base": genes.base,
        },
        index=pd.Index(genes.names),
    )
    adata = AnnData(counts, obs=obs, var=var, obsm={KEYS.SPATIAL: spatial})
    adata.uns["layer_colors"] = np.array(LAYER_COLORS, dtype=object)
    adata.uns["simulation"] = {
        "seed": seed,
        "n_sections": n_sections,
        "n_markers": n_markers,
        "effect": effect,
        "n_smooth": n_smooth,
        "smooth_sd": smooth_sd,
        "smooth_scale": smooth_scale,
        "density": density,
        "depth_sd": depth_sd,
        "section_sd": section_sd,
        "unlabelled": unlabelled,
        "grid": grid,
    }
    return adata


def _check(given: dict) -> int:
    """Validate the arguments of :func:`simulated_bulb`; returns the number of smooth genes."""
    smallest = 5 * len(LAYERS) * given["n_sections"]
    for name, low in (("n_sections", 1), ("n_obs", smallest), ("n_vars", 1), ("n_markers", 0), ("seed", 0)):
        if given[name] < low:
            raise ValueError(f"`{name}` must be at least {low}, found {given[name]}.")
    for name in ("smooth_sd", "depth_sd", "section_sd"):
        if not given[name] >= 0:
            raise ValueError(f"`{name}` must not be negative, found {given[name]}.")
    if not given["smooth_scale"] > 0:
        raise ValueError(f"`smooth_scale` must be positive, found {given['smooth_scale']}.")
    if not 0 < given["density"] < 1:
        raise ValueError(f"`density` is a share of nonzero counts, in (0, 1); found {given['density']}.")
    if not 0 <= given["unlabelled"] < 1:
        raise ValueError(f"`unlabelled` is a share of spots, in [0, 1); found {given['unlabelled']}.")
    if given["grid"] not in ("hex", "square"):
        raise ValueError(f"`grid` must be 'hex' or 'square', found {given['grid']!r}.")
    room = given["n_vars"] - len(LAYERS) * given["n_markers"]
    n_smooth = given["n_smooth"]
    if room < 0 or (n_smooth is not None and not 0 <= n_smooth <= room):
        raise ValueError(
            f"{given['n_vars']} genes do not hold {len(LAYERS)} x {given['n_markers']} markers and {n_smooth or 0} "
            "smooth genes; raise `n_vars` or lower `n_markers` or `n_smooth`."
        )
    return min(given["n_vars"] // 10, room) if n_smooth is None else n_smooth


def _layout(n: int, grid: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spots of one section: array coordinates, coordinates in radii, layer index; the n spots nearest the centre."""
    row = np.sqrt(0.75) if grid == "hex" else 1.0
    half = int(np.ceil(1.3 * np.sqrt(n / (np.pi * row)) / row)) + 3
    ix, iy = np.meshgrid(np.arange(-half, half + 1), np.arange(-half, half + 1))
    x = (ix + (0.5 * (iy % 2) if grid == "hex" else 0.0)).ravel()
    y = (row * iy).ravel()
    # an oval with three and five lobes, and a centre off the grid so that no two spots tie
    wobble, angle, off = rng.uniform(0.03, 0.08, 2), rng.uniform(0, 2 * np.pi, 3), rng.uniform(-0.3, 0.3, 2)
    dx, dy = x - off[0], y - off[1]
    u = dx * np.cos(angle[0]) + dy * np.sin(angle[0])
    v = -dx * np.sin(angle[0]) + dy * np.cos(angle[0])
    theta = np.arctan2(v, u)
    outline = 1.0 + wobble[0] * np.cos(3 * theta + angle[1]) + wobble[1] * np.cos(5 * theta + angle[2])
    radius = np.hypot(u / 1.1, v * 1.1) / outline
    keep = np.argsort(radius, kind="stable")[:n]
    ends = np.rint(np.cumsum(_SHARES) * n).astype(np.int64)
    layer = np.empty(n, dtype=np.int64)
    # keep[0] is the centre: count ranks from the rim
    layer[::-1] = np.searchsorted(ends, np.arange(n), side="right").clip(max=len(LAYERS) - 1)
    order = np.lexsort((x[keep], y[keep]))
    keep, layer = keep[order], layer[order]
    array = np.column_stack([x[keep] - x[keep].min() + 1.0, y[keep] - y[keep].min() + 1.0])
    unit = np.column_stack([dx[keep], dy[keep]]) / np.sqrt(n * row / np.pi)
    return array, unit, layer


def _genes(n_vars: int, n_markers: int, n_smooth: int, effect: float, rng: np.random.Generator) -> _Genes:
    n_layers = len(LAYERS)
    n_marker_genes = n_layers * n_markers
    base = rng.lognormal(0.0, 2.0, n_vars)
    # markers must be seen to be found, and nuisance to matter: above the level of two genes in three
    levels = np.exp(1.0 + np.abs(rng.normal(0.0, 1.0, n_markers + n_smooth)))
    effects = effect * rng.uniform(0.7, 1.3, n_markers)
    # the same levels and effects in each layer
    base[:n_marker_genes] = np.tile(levels[:n_markers], n_layers)
    base[n_marker_genes : n_marker_genes + n_smooth] = levels[n_markers:]
    lfc = np.zeros(n_vars)
    lfc[:n_marker_genes] = np.tile(effects, n_layers)
    layer = np.full(n_vars, -1)
    layer[:n_marker_genes] = np.repeat(np.arange(n_layers), n_markers)
    kind = np.full(n_vars, _KINDS.index("iid"))
    kind[:n_marker_genes] = _KINDS.index("marker")
    kind[n_marker_genes : n_marker_genes + n_smooth] = _KINDS.index("smooth")
    names = [f"{LAYERS[k]}-marker{i + 1}" for k in range(n_layers) for i in range(n_markers)]
    names += [f"smooth{i + 1}" for i in range(n_smooth)]
    names += [f"iid{i + 1}" for i in range(n_vars - len(names))]
    theta = np.exp(rng.normal(np.log(5.0), 0.5, n_vars))
    # a position in the table must tell nothing about the gene
    order = rng.permutation(n_vars)
    return _Genes(
        np.array(names, dtype=object)[order],
        kind[order],
        layer[order],
        (base / base.sum())[order],
        lfc[order],
        theta[order],
    )


def _field(unit: np.ndarray, n_fields: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth random fields of mean 0 and variance 1, float64, shape (n_obs, n_fields)."""
    # the cosines dominate the cost, and single precision is ample for them
    waves = rng.normal(0.0, 1.0 / scale, (n_fields, 2, _WAVES)).astype(np.float32)
    phases = rng.uniform(0.0, 2 * np.pi, (n_fields, 1, _WAVES)).astype(np.float32)
    unit = unit.astype(np.float32)
    out = np.empty((len(unit), n_fields))
    for k in range(n_fields):
        out[:, k] = np.sqrt(2.0 / _WAVES) * np.cos(unit @ waves[k] + phases[k]).sum(axis=1)
    return out


def _log_depth(unit: np.ndarray, section: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    smooth = _field(unit, int(section.max()) + 1, 0.4, rng)[np.arange(len(unit)), section]
    return sd * np.sqrt(0.5) * (smooth + rng.standard_normal(len(unit)))


def _depth_for(density: float, relative: np.ndarray, genes: _Genes) -> float:
    """Depth for an expected share ``density`` of nonzero counts, by bisection on P(0) = (1 + mean/theta)^-theta."""
    relative = np.quantile(relative, (np.arange(20) + 0.5) / 20)[:, None]
    low, high = 0.0, 40.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        mean = np.exp(middle) * relative * genes.base
        nonzero = 1.0 - np.exp(-genes.theta * np.log1p(mean / genes.theta)).mean()
        low, high = (middle, high) if nonzero < density else (low, middle)
    return float(np.exp(0.5 * (low + high)))


def _counts(
    genes: _Genes,
    depth: np.ndarray,
    layer: np.ndarray,
    section: np.ndarray,
    unit: np.ndarray,
    shift: np.ndarray,
    smooth_sd: float,
    smooth_scale: float,
    seed: int,
) -> sp.csr_matrix:
    n_vars = len(genes.names)
    starts = range(0, n_vars, _BLOCK)
    blocks: list[sp.csc_matrix] = []
    for start, stream in zip(starts, np.random.SeedSequence([seed, 1]).spawn(len(starts)), strict=True):
        rng = np.random.default_rng(stream)
        here = slice(start, min(start + _BLOCK, n_vars))
        mean = depth[:, None] * genes.base[here]
        marked = layer[:, None] == genes.layer[None, here]
        mean[marked] *= np.exp(np.broadcast_to(genes.lfc[here], mean.shape)[marked])
        smooth = np.flatnonzero(genes.kind[here] == _KINDS.index("smooth"))
        # a gene has its own field in each section: what is unrelated to the layers must not repeat
        for s in range(len(shift)):
            rows = np.flatnonzero(section == s)
            fields = _field(unit[rows], smooth.size, smooth_scale, rng)
            mean[np.ix_(rows, smooth)] *= np.exp(smooth_sd * fields - 0.5 * smooth_sd**2)
            mean[rows] *= np.exp(shift[s, here])
        blocks.append(_negative_binomial(mean, genes.theta[here], rng))
    counts = sp.csr_matrix(sp.hstack(blocks, format="csr"))
    counts.sort_indices()
    return counts


def _negative_binomial(mean: np.ndarray, theta: np.ndarray, rng: np.random.Generator) -> sp.csc_matrix:
    """Draw counts, float32 CSC, in time proportional to their sum of logarithms rather than to the number of zeros.

    A negative binomial is a Poisson number, of mean ``theta * log(1 + mean / theta)``, of logarithmic variables with
    ``p = mean / (mean + theta)`` (Quenouille 1949). The Poisson numbers of a gene are drawn as their total, which is
    then dealt out to the spots.
    """
    n_obs, n_genes = mean.shape
    cumulative = np.cumsum(theta * np.log1p(mean / theta), axis=0)
    totals = rng.poisson(cumulative[-1])
    data: list[np.ndarray] = []
    indices: list[np.ndarray] = []
    indptr = np.zeros(n_genes + 1, dtype=np.int64)
    for j in range(n_genes):
        spots = np.searchsorted(cumulative[:, j], rng.random(totals[j]) * cumulative[-1, j], side="right")
        spots = spots.clip(max=n_obs - 1)
        sizes = rng.logseries(mean[spots, j] / (mean[spots, j] + theta[j]))
        column = np.bincount(spots, weights=sizes, minlength=n_obs)
        nonzero = np.flatnonzero(column)
        indices.append(nonzero.astype(np.int32))
        data.append(column[nonzero].astype(np.float32))
        indptr[j + 1] = indptr[j] + nonzero.size
    return sp.csc_matrix((np.concatenate(data), np.concatenate(indices), indptr), shape=mean.shape)
