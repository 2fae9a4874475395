"""What other libraries say while they read for us."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from st_concepts._log import get_logger

logger = get_logger("io")


@contextmanager
def others_warnings() -> Iterator[None]:
    """Warnings that other libraries give about themselves go to the log, level DEBUG."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        logger.debug("%s: %s", warning.category.__name__, warning.message)
