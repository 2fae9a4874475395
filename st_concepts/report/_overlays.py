"""What can be drawn on the tissue: layers, concept scores, expression, saliency maps, doubt about labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from st_concepts import get
from st_concepts._counts.expression import Expression
from st_concepts._counts.images import TissueImage
from st_concepts._counts.positions import positions
from st_concepts._counts.sections import Sections
from st_concepts._slots import KEYS, MAP_SLOTS, saliency_layer
from st_concepts.concepts import ConceptSet, defining_labels
from st_concepts.pl import colors_of, end_of, palette, pitch
from st_concepts.report import _pack

# the colour maps of the pictures in st_concepts.pl
_SCORE, _SALIENCY, _AMOUNT = SCALES = ("RdBu_r", "BrBG_r", "viridis")
BEST = "layer of the highest score"
_LONGEST = 1400  # pixels of an embedded image
_MARGIN = 0.06
_MOST_CATEGORIES = 20
_MOST_COLUMNS = 6
# kinds of saliency maps: of both parts, in the spot, around it
MAPS = dict(zip(("saliency", "own", "around"), MAP_SLOTS.values(), strict=True))


def top_genes(adata: AnnData, made: ConceptSet, n: int) -> dict[str, list[str]]:
    """Per concept, by true name: the ``n`` best markers, then the ``n`` most salient genes that are not among them."""
    out: dict[str, list[str]] = {}
    for name, label in zip(made.names, made.labels, strict=True):
        genes: list[str] = []
        if KEYS.RANK in adata.uns and name in adata.uns[KEYS.RANK]["names"].dtype.names:
            genes += get.markers(adata, name, n=n)["names"].astype(str).tolist()
        if KEYS.SALIENCY in adata.varm and label in adata.varm[KEYS.SALIENCY]:
            genes += adata.varm[KEYS.SALIENCY][label].nlargest(n).index.astype(str).tolist()
        layer = saliency_layer(label)
        if layer in adata.layers:
            filled = np.asarray(abs(sp.csr_matrix(adata.layers[layer])).sum(0)).ravel()
            mapped = np.argsort(-filled, kind="stable")[: min(n, int((filled > 0).sum()))]
            genes += adata.var_names[mapped].astype(str).tolist()
        out[name] = list(dict.fromkeys(genes))
    return out


def collect(adata: AnnData, made: ConceptSet, genes: dict[str, list[str]], rows: np.ndarray) -> list[dict[str, Any]]:
    """Overlays of the spots ``rows``; each says how it is to be coloured."""
    found = _columns(adata, made, rows)
    scores = get.concept_scores(adata)
    if len(made.names) > 1:
        found.append(_strongest(adata, made, scores.to_numpy(dtype=np.float64)[rows]))
    for name in made.names:
        values = scores[name].to_numpy(dtype=np.float64)
        found.append(
            _measured("score", name, "", values[rows], _SCORE, end_of(values), "concept score (standard deviations)")
        )
    if KEYS.DISAGREEMENT in adata.obs:
        doubt = adata.obs[KEYS.DISAGREEMENT].to_numpy(dtype=np.float64)
        found.append(_measured("doubt", "", "", doubt[rows], _AMOUNT, None, "doubt about the label", span=(0.0, 1.0)))
    found += _expression(adata, made, genes, rows)
    found += _saliency(adata, made, genes, rows)
    return found


def _columns(adata: AnnData, made: ConceptSet, rows: np.ndarray) -> list[dict[str, Any]]:
    """Annotated layers: the column that the concepts were made of, and others with few categories."""
    groupby = made.groupby
    names = [groupby] if groupby in adata.obs else []
    for name in adata.obs.columns:
        column = adata.obs[name]
        if (
            name not in names
            and isinstance(column.dtype, pd.CategoricalDtype)
            and 2 <= len(column.cat.categories) <= _MOST_CATEGORIES
        ):
            names.append(name)
    out = []
    for name in names[:_MOST_COLUMNS]:
        try:
            labels = defining_labels(adata.obs[name], made.names, made.params if name == groupby else {})
        except ValueError:  # measurements, names: nothing to colour by
            continue
        categories = labels.names
        colors = colors_of(adata, name)
        out.append(
            {
                "kind": "layers",
                "concept": "",
                "gene": str(name),
                "unit": str(name),
                "categories": categories,
                "colors": [colors[c] for c in categories],
                "codes": _pack.codes(labels.codes[rows]),
            }
        )
    return out


def _strongest(adata: AnnData, made: ConceptSet, scores: np.ndarray) -> dict[str, Any]:
    """Layer of the highest score of each spot, in the colours of the annotation where there is one."""
    groupby = made.groupby
    known = colors_of(adata, groupby) if groupby in adata.obs else {}
    spare = palette(len(made.names))
    return {
        "kind": "layers",
        "concept": "",
        "gene": BEST,
        "unit": BEST,
        "categories": made.names,
        "colors": [known.get(name, spare[j]) for j, name in enumerate(made.names)],
        "codes": _pack.codes(np.where(np.isfinite(scores).all(1), scores.argmax(1), -1)),
    }


def _expression(
    adata: AnnData, made: ConceptSet, genes: dict[str, list[str]], rows: np.ndarray
) -> list[dict[str, Any]]:
    wanted = list(dict.fromkeys(g for names in genes.values() for g in names))
    at = adata.var_names.astype(str).get_indexer(wanted)
    try:
        x = Expression.open(adata, made.layer, float(made.params["target_sum"]), share=False).matrix()
    except (KeyError, ValueError):
        return []  # a result without its counts still has scores and tables
    columns = sp.csc_matrix(x)[rows][:, at]
    out = []
    for j, gene in enumerate(wanted):
        values = columns[:, [j]].toarray().ravel()
        span = (0.0, float(values.max(initial=0.0)) or 1.0)
        out.append(_measured("expression", "", gene, values, _AMOUNT, None, "log-normalised expression", span=span))
    return out


def _saliency(adata: AnnData, made: ConceptSet, genes: dict[str, list[str]], rows: np.ndarray) -> list[dict[str, Any]]:
    """Maps of each concept; the parts of a map have its colours, so that they can be compared."""
    out = []
    for name, label in zip(made.names, made.labels, strict=True):
        ends: dict[str, float] = {}
        for kind, slot in MAPS.items():
            layer = saliency_layer(label, slot)
            if layer not in adata.layers:
                continue
            map_ = sp.csc_matrix(adata.layers[layer])
            for gene in genes[name]:
                values = map_[:, [adata.var_names.get_loc(gene)]].toarray().ravel()
                if values.any():
                    end = ends.setdefault(gene, end_of(values))
                    out.append(
                        _measured(kind, name, gene, values[rows], _SALIENCY, end, "saliency (units of the score)")
                    )
    return out


def _measured(
    kind: str,
    concept: str,
    gene: str,
    values: np.ndarray,
    colors: str,
    end: float | None,
    unit: str,
    *,
    span: tuple[float, float] | None = None,
) -> dict[str, Any]:
    # there are many genes, and a colour tells no more than 8 bits
    packed = _pack.numbers(values, bits=8 if gene else 16)
    if end is not None:
        span = (-end, end)
    return {
        "kind": kind,
        "concept": concept,
        "gene": gene,
        "unit": unit,
        "scale": colors,
        "limits": list(span or (packed["low"], packed["high"])),
        "values": packed,
    }


def sections(
    adata: AnnData, rows: np.ndarray, found: Sections, images: Sequence[TissueImage | None]
) -> list[dict[str, Any]]:
    """Where the spots of ``rows`` are, section by section, with the image under them where there is one."""
    if KEYS.SPATIAL not in adata.obsm:
        return []
    coords = positions(adata)
    chosen = np.zeros(adata.n_obs, dtype=bool)
    chosen[rows] = True
    out = []
    for (name, of_section), image in zip(found.rows(), images, strict=True):
        here = of_section & chosen
        if not here.any():
            continue
        xy = coords[here]
        low, high = xy.min(0), xy.max(0)
        margin = _MARGIN * max(*(high - low), 1e-9)
        section: dict[str, Any] = {
            "name": name or (image.library if image is not None else ""),
            # positions within the spots that are drawn
            "spots": np.flatnonzero(here[rows]).tolist(),
            "x": _pack.numbers(xy[:, 0]),
            "y": _pack.numbers(xy[:, 1]),
            "box": [*(low - margin).tolist(), *(high + margin).tolist()],
            "image": None,
            "diameter": pitch(xy) * 0.9,
        }
        if image is not None:
            section |= _under(image, section["box"])
        out.append(section)
    return out


def _under(image: TissueImage, box: list[float]) -> dict[str, Any]:
    """The part of the image that has spots."""
    height, width = image.pixels.shape[:2]
    ends = [v * image.scale for v in box]
    x0, y0 = (int(np.clip(np.floor(v), 0, n - 1)) for v, n in zip(ends[:2], (width, height), strict=True))
    x1, y1 = (int(np.clip(np.ceil(v), 1, n)) for v, n in zip(ends[2:], (width, height), strict=True))
    if x1 <= x0 or y1 <= y0:
        return {}
    out: dict[str, Any] = {
        "image": _pack.jpeg(image.pixels[y0:y1, x0:x1], _LONGEST),
        "image_box": [v / image.scale for v in (x0, y0, x1, y1)],
    }
    if image.diameter is not None:
        out["diameter"] = image.diameter * 1.2
    return out
