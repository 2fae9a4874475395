"""What there is to load, as a table."""

from __future__ import annotations

from os import PathLike

import pandas as pd

from ._bulb import bulb_at_hand
from ._registry import FILES, SECTIONS


def available(*, cache_dir: str | PathLike[str] | None = None) -> pd.DataFrame:
    """List the data sets: how to load them, from where they come, and whether they are on this machine.

    Parameters
    ----------
    cache_dir
        Folder of downloaded files, if not the default one.

    Returns
    -------
    DataFrame with one row per data set: ``name``, ``load`` (the call), ``n_obs``, ``n_vars`` (0: as asked for),
    ``at_hand`` (whether it can be loaded without network), ``source``, ``licence``. Nothing is downloaded.

    Examples
    --------
    >>> import st_concepts as stc
    >>> stc.datasets.available()["name"].tolist()
    ['MOB_rep1', 'MOB_rep2', 'MOB_rep11', 'simulated']
    """
    rows = []
    for replicate, section in SECTIONS.items():
        files = [FILES[name] for name in section[:3]]
        repositories = dict.fromkeys(file.repository for file in files)
        rows.append(
            {
                "name": f"MOB_rep{replicate}",
                "load": f"st_concepts.datasets.mouse_olfactory_bulb(replicate={replicate})",
                "n_obs": section.n_obs,
                "n_vars": section.n_vars,
                "at_hand": bulb_at_hand(replicate, cache_dir=cache_dir),
                "source": "Ståhl et al. 2016; " + ", ".join(f"github.com/{name}" for name in repositories),
                "licence": f"counts: {files[0].licence}; layers and image: {files[1].licence}",
            }
        )
    rows.append(
        {
            "name": "simulated",
            "load": "st_concepts.datasets.simulated_bulb()",
            "n_obs": 0,
            "n_vars": 0,
            "at_hand": True,
            "source": "generated",
            "licence": "BSD-3-Clause",
        }
    )
    return pd.DataFrame(rows)
