"""Gene names that occur once each."""

from __future__ import annotations

import pandas as pd
from anndata.utils import make_index_unique

from .others import logger, others_warnings


def unique_genes(names: pd.Index) -> pd.Index:
    """The same names, ``-1``, ``-2``, ... behind those that occur again (`scanpy`'s way); that is logged."""
    if names.is_unique:
        return names
    twice = names[names.duplicated()].unique()
    logger.info("%d gene names occur more than once (%s) and get a number", len(twice), ", ".join(twice[:3]))
    with others_warnings():  # of names that end in a number already
        return make_index_unique(names)
