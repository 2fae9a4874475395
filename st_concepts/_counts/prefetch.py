"""A generator that runs ahead of its consumer, in one thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum, auto
from typing import TypeVar

T = TypeVar("T")


class _End(Enum):
    END = auto()


def prefetch(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """The items in their order, up to ``depth`` of them made while the consumer works on the one before.

    One thread only ever runs the iterator, so what it reads from need not be thread-safe. What it raises is raised
    here. When this generator is closed, early or not, the thread has ended and the iterator is closed.

    Examples
    --------
    >>> list(prefetch(range(4)))
    [0, 1, 2, 3]
    """
    source = iter(items)
    pool = ThreadPoolExecutor(1, thread_name_prefix="st-concepts-read")
    try:
        ahead: deque[Future[T | _End]] = deque(pool.submit(next, source, _End.END) for _ in range(depth))
        while (item := ahead.popleft().result()) is not _End.END:
            ahead.append(pool.submit(next, source, _End.END))
            yield item
            del item  # or it would be held while the next one is awaited
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if hasattr(source, "close"):
            source.close()
