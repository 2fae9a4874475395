"""``st-concepts demo`` and ``st-concepts datasets``."""

from __future__ import annotations

import time
from pathlib import Path

from anndata import AnnData

from st_concepts import datasets, get
from st_concepts.cli._errors import UsageError, one_line, say
from st_concepts.cli._files import write_csv, write_result
from st_concepts.cli._paths import Plan, files_in
from st_concepts.cli._pipeline import PICTURES, Settings, analyse, pictures, summary
from st_concepts.cli._run import seen_in

REPLICATE = 11
MIN_SPOTS = 20  # genes seen in fewer spots say little about layers; the published tables leave them out too
GROUPBY = "layer"
CHOICES = ("auto", "mob", "simulated")


def run_demo(dataset: str, out: Path, *, seed: int) -> None:
    """The main job on an example section."""
    if dataset not in CHOICES:
        raise UsageError(f"--dataset {dataset} is unknown; use {', '.join(CHOICES)}.")
    Plan((), files_in("--out", out, ("result.h5ad", "markers.csv", *PICTURES))).check()
    start = time.perf_counter()
    adata = _section(dataset, seed)
    keep = seen_in(adata, None, MIN_SPOTS)
    say(
        f"genes: {int(keep.sum())} of {adata.n_vars} are seen in at least {MIN_SPOTS} of {adata.n_obs} spots; "
        "the others are left out"
    )
    adata = adata[:, keep].copy()
    analyse(adata, Settings(groupby=GROUPBY, n_maps=1, seed=seed))
    say(summary(adata))
    out.mkdir(parents=True, exist_ok=True)
    write_result(adata, out / "result.h5ad")
    write_csv(get.markers(adata), out / "markers.csv")
    written = [out / "result.h5ad", out / "markers.csv", *pictures(adata, out, groupby=GROUPBY)]
    say(
        f"written in {time.perf_counter() - start:.0f} s: {out}{'/' if out.name else ''}"
        + ", ".join(p.name for p in written)
    )


def list_datasets() -> None:
    """Print what there is to load, and whether it is on this machine."""
    table = datasets.available()
    for row in table.itertuples():
        size = f"{row.n_obs} spots x {row.n_vars} genes" if row.n_obs else "any size"
        say(f"{row.name}: {size}, {'on this machine' if row.at_hand else 'to be downloaded'}")
        say(f"    {row.load}")
        say(f"    source: {row.source}; licence: {row.licence}")


def _section(dataset: str, seed: int) -> AnnData:
    """The bulb, or the simulated section; says which and, where that was not the wish, why."""
    if dataset != "simulated":
        try:
            adata = datasets.mouse_olfactory_bulb(REPLICATE)
        except (OSError, datasets.CorruptFileError) as error:
            if dataset == "mob":
                raise
            say(f"the real section cannot be had: {one_line(error)}")
        else:
            say(
                f"data: REAL, mouse olfactory bulb, replicate {REPLICATE} (Ståhl et al. 2016), "
                f"{adata.n_obs} spots x {adata.n_vars} genes"
            )
            return adata
    adata = datasets.simulated_bulb(seed=seed)
    say(f"data: SIMULATED section with planted markers, {adata.n_obs} spots x {adata.n_vars} genes")
    return adata
