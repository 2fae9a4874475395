"""Readers and writers of sections and of the layers that people draw on them."""

from __future__ import annotations

from st_concepts._counts.labels import MISSING
from st_concepts.io._annotations.outlines import write_annotation
from st_concepts.io._annotations.read import read_annotation
from st_concepts.io._readers.base import READERS, Reader, register
from st_concepts.io._readers.base import takers as takers
from st_concepts.io._readers.st import read_st

from ._read import detect_kind, read
from ._write import is_store as is_store
from ._write import write

__all__ = [
    "MISSING",
    "READERS",
    "Reader",
    "detect_kind",
    "read",
    "read_annotation",
    "read_st",
    "register",
    "write",
    "write_annotation",
]
