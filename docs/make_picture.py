"""The picture at the top of the README: layers, a concept score and the saliency of one gene on replicate 11.

python docs/make_picture.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import scanpy as sc

import st_concepts as stc


def main() -> None:
    """Fit, explain, draw, save."""
    adata = stc.datasets.mouse_olfactory_bulb(replicate=11)
    sc.pp.filter_genes(adata, min_cells=20)
    model = stc.SpotVAE(adata).fit(progress=False)
    stc.tl.concepts(adata, model, groupby="layer")
    stc.tl.saliency(adata, model)
    gene = "Nrgn"
    stc.tl.saliency_map(adata, model, concept="GCL", genes=[gene])
    fig, axes = plt.subplots(1, 3, figsize=(17, 4), gridspec_kw={"wspace": 0.35})
    stc.pl.annotation(adata, "layer", ax=axes[0], show=False)
    stc.pl.concept_scores(adata, ["GCL"], ax=axes[1], show=False)
    stc.pl.saliency_map(adata, concept="GCL", genes=[gene], ax=axes[2], show=False)
    titles = (
        "layers drawn on the H&E",
        "concept score of the granule cell layer",
        f"saliency of {gene} for that score",
    )
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title)
    out = Path(__file__).parent / "images" / "bulb.png"
    out.parent.mkdir(exist_ok=True)
    fig.savefig(out, dpi=80, bbox_inches="tight")
    print(f"written to {out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out}")


if __name__ == "__main__":
    main()
