"""The main job: model, concepts, saliency, markers, maps; and what it found, as text and pictures."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts import get, pl, tl
from st_concepts._counts.sections import sections_of
from st_concepts._results import found_slots, remove, split_found
from st_concepts._slots import KEYS, saliency_layer
from st_concepts.cli._errors import say
from st_concepts.concepts import read_concepts
from st_concepts.models import SpotVAE
from st_concepts.pl import finish, panels
from st_concepts.stats import p_text


@dataclass(frozen=True)
class Settings:
    """What a run can be told; the defaults are those of the functions in `st_concepts.tl`."""

    groupby: str
    layer: str | None = None
    batch_key: str | None = None
    section_key: str | None = None
    n_latent: int = 20
    max_epochs: int | None = None
    estimator: str = "discriminant"
    method: str = "integrated_gradients"
    statistic: str = "pattern"
    null: str = "moran"
    n_null: int = 1000
    n_maps: int = 0
    seed: int = 0
    checkpoint: Path | None = None
    missing: tuple[str, ...] | None = None


def analyse(adata: AnnData, settings: Settings) -> SpotVAE:
    """Fit a model and write every result into ``adata``."""
    s = settings
    model = SpotVAE(adata, layer=s.layer, section_key=s.batch_key, n_latent=s.n_latent, seed=s.seed)
    model.fit(max_epochs=s.max_epochs, checkpoint=s.checkpoint, progress=sys.stderr.isatty())
    say(f"model: {model!r}")
    tl.embed(adata, model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"adata\.obs\[.*label")  # said before the fit
        tl.concepts(
            adata,
            model,
            groupby=s.groupby,
            estimator=s.estimator,
            missing=s.missing,
            section_key=s.section_key,
            seed=s.seed,
        )
    tl.saliency(adata, model, method=s.method)
    tl.rank_genes_concepts(
        adata,
        method=s.statistic,  # type: ignore[arg-type]  # text of the command line, which was checked or is checked there
        null=s.null,
        n_null=s.n_null,
        section_key=s.section_key,
        seed=s.seed,
    )
    if s.n_maps:
        for concept, genes in top_salient(adata, s.n_maps).items():
            tl.saliency_map(adata, model, concept=concept, genes=genes, method=s.method)
    return model


def drop_results(adata: AnnData) -> list[str]:
    """Remove what an earlier run left, so that nothing of it is taken for new; returns the slots.

    Counts that were split stay: they are what a run reads, and their groups were found in them.
    """
    kept = split_found(adata)
    return remove(adata, [slot for slot in found_slots(adata) if slot not in kept])


def top_salient(adata: AnnData, n: int) -> dict[str, list[str]]:
    """Per concept the ``n`` genes of highest saliency, by true name."""
    concepts = read_concepts(adata)
    frame = adata.varm[KEYS.SALIENCY]
    return {
        name: frame[label].nlargest(n).index.astype(str).tolist()
        for name, label in zip(concepts.names, concepts.labels, strict=True)
    }


def summary(adata: AnnData, n: int = 5) -> str:
    """A short table: spots, AUROC of held-out spots, p-value of the concept, top genes of both statistics."""
    concepts = read_concepts(adata)
    members = adata.obsm[KEYS.MEMBERS].to_numpy()
    salient = top_salient(adata, n)
    area = concepts.params.get("auroc", np.full(len(concepts.names), np.nan))
    pval = concepts.test.get("pval", np.full(len(concepts.names), np.nan))
    rows = [
        {
            "concept": name,
            "spots": int((members[:, j] == 1).sum()),
            "AUROC": "-" if np.isnan(area[j]) else f"{area[j]:.3f}",
            "p": p_text(float(pval[j])),
            "markers": " ".join(get.markers(adata, name, n=n)["names"]),
            "salient genes": " ".join(salient[name]),
        }
        for j, name in enumerate(concepts.names)
    ]
    return _left_aligned(pd.DataFrame(rows).astype(str))


def _left_aligned(table: pd.DataFrame) -> str:
    widths = [max(len(c), int(table[c].str.len().max())) for c in table]
    lines = [list(table), *table.to_numpy().tolist()]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


# all that may be written; what is not in the data is not drawn
PICTURES = (
    "layers.png",
    "concept_scores.png",
    "saliency_maps.png",
    "score_histograms.png",
    "marker_heatmap.png",
    "marker_dotplot.png",
)


def pictures(adata: AnnData, folder: Path, *, groupby: str) -> list[Path]:
    """Layers, concept scores, saliency maps, marker panels, score histograms; returns the files."""
    import matplotlib

    matplotlib.use("Agg")
    written: list[Path] = []

    def target(name: str) -> Path:
        written.append(folder / name)
        return written[-1]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the drawing libraries, about themselves
        if KEYS.SPATIAL in adata.obsm:
            pl.annotation(adata, groupby, save=target("layers.png"))
            pl.concept_scores(adata, save=target("concept_scores.png"))
            if mapped := _mapped(adata):
                _saliency_maps(adata, mapped, target("saliency_maps.png"))
        pl.concept_histograms(adata, save=target("score_histograms.png"))
        pl.markers(adata, kind="heatmap", save=target("marker_heatmap.png"))
        pl.markers(adata, kind="dotplot", save=target("marker_dotplot.png"))
    return written


def _mapped(adata: AnnData) -> dict[str, str]:
    """Per concept with a saliency map, its most salient gene."""
    concepts = read_concepts(adata)
    labels = dict(zip(concepts.names, concepts.labels, strict=True))
    return {name: g[0] for name, g in top_salient(adata, 1).items() if saliency_layer(labels[name]) in adata.layers}


def _saliency_maps(adata: AnnData, mapped: dict[str, str], path: Path) -> None:
    n, sections = len(mapped), sections_of(adata)
    axes = panels(adata, sections, n, ncols=3)
    for j, (concept, gene) in enumerate(mapped.items()):
        # the panels of one concept, section after section
        pl.saliency_map(adata, concept=concept, genes=gene, ax=axes[j::n], show=False)
    finish(axes[0].figure, path.name, show=False, save=path, own=True)
