"""Records of past tokens or iterations: what predictors learn from."""

from collections.abc import Iterable
from typing import Literal

import numpy as np

from policies.types import Batch, Float, Int, RecordedRequest

PrefillRecords = Literal["token", "iteration"]
Records = tuple[Float, Float | None]  # [R, …] and what goes with each: of expert maps [R, L, J], embeddings [R, h]


class RecordMaker:
    """Makes the records of expert-map search: one per token, or one per "iteration", the mean of a prefill's tokens.

    They have embeddings where the trace has and they are to be `embedded`.
    """

    def __init__(self, prefill_records: PrefillRecords, *, embedded: bool) -> None:
        self._per_token = prefill_records == "token"
        self._embedded = embedded

    def count(self, batch: Batch) -> int:
        """How many records the iteration has."""
        return len(batch.token if self._per_token else batch.request)

    def of(self, values: Float, group: Int) -> Float:
        """Per token `[T, …]` to per record `[R, …]`: the same, or the mean of each group; `group` `[T]` rises.

        Maps `[T, L, J]` are zero where a token passed a layer by; it does not count in the mean of that layer.
        """
        if self._per_token or len(group) == 1:
            return values
        starts = np.flatnonzero(np.diff(group, prepend=group[0] - 1))
        sizes = np.diff(starts, append=len(group)).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
        if values.ndim == 3 and not (known := values.any(axis=2, keepdims=True)).all():
            sizes = np.maximum(np.add.reduceat(known, starts, axis=0, dtype=np.float32), 1)
        sums = np.add.reduceat(values.astype(np.float32), starts, axis=0)
        means: Float = sums / sizes
        return means

    def embeddings(self, embedding: Float | None, group: Int) -> Float | None:
        """Those of the records `[R, h]`, if they are to have any."""
        return self.of(embedding, group) if self._embedded and embedding is not None else None

    def of_request(self, recorded: RecordedRequest) -> Records:
        """The records that a past request would have left."""
        group = np.where(recorded.iteration == 0, 0, np.arange(len(recorded.token)))
        return self.of(recorded.gate.astype(np.float32), group), self.embeddings(recorded.embedding, group)


def sample(records: Iterable[Records], count: int, rng: np.random.Generator) -> list[Records]:
    """Up to `count` of the records, each as likely as any other; they are read once and only the sample is held."""
    maps: list[Float] = []
    embeddings: list[Float] = []
    seen = 0
    for some, vectors in records:
        places = rng.integers(0, np.arange(seen, seen + len(some)) + 1)  # reservoir sampling
        for row, place in enumerate(places.tolist()):
            if seen + row < count:
                place = seen + row
                maps.append(some[row])
                embeddings += () if vectors is None else (vectors[row],)
            elif place < count:
                maps[place] = some[row].copy()  # not a view, which would hold the whole request
                if vectors is not None:
                    embeddings[place] = vectors[row].copy()
        seen += len(some)
    return [(np.stack(maps), np.stack(embeddings) if embeddings else None)] if maps else []
