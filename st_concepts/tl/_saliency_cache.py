"""Attributions per latent dimension, kept in memory: another concept vector on the same spots is a matrix product."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np

from st_concepts.attribution import GroupAttribution, Method, Options, profile_baseline
from st_concepts.attribution._explained import Baseline, Section

# bytes; a group of 20 latent dimensions and 15,000 genes takes 2.4 MB
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class LatentAttribution:
    """Mean attribution of one group of spots to every latent dimension.

    Attributes
    ----------
    values
        float64 ``(n_latent, n_vars)``.
    weight
        Spots of the group.
    score_difference
        float64 ``(n_latent,)``, or `None` for methods without a baseline.
    path
        Path of the engine that ran.
    """

    values: np.ndarray
    weight: float
    score_difference: np.ndarray | None
    path: str


class LatentCache:
    """Least recently used entries go first once more than ``max_bytes`` are held."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes, self._lock = max_bytes, Lock()
        self._entries: OrderedDict[bytes, LatentAttribution] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def n_bytes(self) -> int:
        """Bytes held."""
        return sum(e.values.nbytes for e in self._entries.values())

    def get(self, key: bytes) -> LatentAttribution | None:
        """The entry, which counts as used now, or `None`."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: bytes, entry: LatentAttribution) -> None:
        """Keep an entry; one larger than the whole cache is not kept."""
        with self._lock:
            if entry.values.nbytes > self.max_bytes:
                return
            self._entries[key] = entry
            self._entries.move_to_end(key)
            while self.n_bytes > self.max_bytes:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()


CACHE = LatentCache()


def cached_attributions(
    section: Section,
    chosen: Sequence[int],
    *,
    method: Method,
    baseline: Baseline,
    options: Options,
    cache: LatentCache = CACHE,
) -> GroupAttribution:
    """Attributions of each chosen concept over its spots, computed only for groups that are not in the cache.

    The method must be linear in the concept vector. An entry belongs to weights, genes and kind of the encoder, counts,
    covariates, spots of the group, baseline, method and its settings: a change in any of them is another entry.
    """
    common = hashlib.blake2b(digest_size=16)
    encoder = section.encoder
    scale = getattr(encoder, "target_sum", "")
    settings = sorted(options.used_by(method).items())
    described = (type(encoder).__qualname__, encoder.fingerprint, scale, method.name, settings)
    common.update(repr(described).encode() + section.digest())
    keys = [_key(common, section, j, method, baseline) for j in chosen]
    # read before anything is put, which may push entries out
    held = {key: cache.get(key) for key in keys}
    missing = list({k: j for k, j in zip(keys, chosen, strict=True) if held[k] is None}.items())
    if missing:
        found = section.attributions([j for _, j in missing], method=method, baseline=baseline, options=options)
        for i, (key, _) in enumerate(missing):
            difference = None if found.score_difference is None else found.score_difference[i]
            held[key] = LatentAttribution(found.values[i], float(found.weight[i]), difference, found.path)
            cache.put(key, replace(held[key], values=held[key].values.copy()))
    directions = section.concepts.directions[list(chosen)]
    entries = [held[key] for key in keys]
    differences = None
    if entries[0].score_difference is not None:
        differences = np.array([[d @ e.score_difference] for d, e in zip(directions, entries, strict=True)])
    return GroupAttribution(
        values=np.stack([(d @ e.values)[None] for d, e in zip(directions, entries, strict=True)]),
        directions=directions[:, None, :],
        weight=np.array([e.weight for e in entries]),
        score_difference=differences,
        per_latent=False,
        method=method,
        path=entries[0].path,
        parameters={"method": method.name, **options.used_by(method)},
    )


def _key(common: hashlib.blake2b, section: Section, j: int, method: Method, baseline: Baseline) -> bytes:
    own = common.copy()
    own.update(np.packbits(section.members.inside[:, j]))
    if method.needs_baseline:
        if not isinstance(baseline, str):
            own.update(b"profile" + profile_baseline(baseline, section.encoder.var_names).tobytes())
        else:
            spots = section.reference_spots(j, baseline)
            own.update(b"zero" if spots is None else b"spots" + np.packbits(spots).tobytes())
    return own.digest()
