"""What the functions of `tl` share; it lies below, since `evaluate` streams the same way."""

from __future__ import annotations

from st_concepts.concepts._stream import (
    BATCH_SIZE,
    as_encoder,
    counts_layer,
    embed_all,
    embed_batch,
    informative,
    membership,
    scores,
    stream,
)

__all__ = [
    "BATCH_SIZE",
    "as_encoder",
    "counts_layer",
    "embed_all",
    "embed_batch",
    "informative",
    "membership",
    "scores",
    "stream",
]
