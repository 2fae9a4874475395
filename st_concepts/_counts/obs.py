"""Sections (slides, batches) of the spots: names and codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from st_concepts._counts.frames import column
from st_concepts._counts.sections import read_sections


def section_names(obs: Any, key: str | None, *, option: str = "section_key") -> list[str]:
    """Names of the sections in ``obs[key]`` in the order of its categories; empty where ``key`` is `None`."""
    return [] if key is None else read_sections(obs, key, option=option)[0]


def section_codes(obs: Any, key: str | None, sections: Sequence[str]) -> np.ndarray | None:
    """Code of each spot, int64 ``(n,)``; ``len(sections)`` stands for one never seen. `None` without sections.

    Examples
    --------
    >>> section_codes(pd.DataFrame({"slide": ["a", "c", "b"]}), "slide", ["a", "b"])
    array([0, 2, 1])
    """
    if not sections:
        return None
    if key is None or key not in obs:
        return np.full(obs.shape[0], len(sections), dtype=np.int64)
    codes = pd.Index(sections).get_indexer(column(obs, key).astype(str))
    return np.where(codes < 0, len(sections), codes).astype(np.int64)
