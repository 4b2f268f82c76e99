"""Records of past tokens or iterations, from which predictors learn."""

from collections.abc import Iterable
from typing import Literal

import numpy as np

from policies.types import Batch, Float, Int, RecordedRequest

PrefillRecords = Literal["token", "iteration"]
Records = tuple[Float, Float | None]  # [R, …] and a companion of each, for expert maps [R, L, J] the embeddings [R, h]


class RecordMaker:
    """Makes the records of expert-map search: one per token, or one per "iteration", the mean of a prefill's tokens.

    With `embedded`, they have embeddings if the trace has.
    """

    def __init__(self, prefill_records: PrefillRecords, *, embedded: bool) -> None:
        self._per_token = prefill_records == "token"
        self._embedded = embedded

    def count(self, batch: Batch) -> int:
        """How many records the iteration has."""
        return len(batch.token if self._per_token else batch.request)

    def of(self, values: Float, group: Int) -> Float:
        """Per token `[T, …]` to per record `[R, …]`: unchanged, or the mean of each group; `group` `[T]` rises.

        Maps `[T, L, J]` are zero where a token skipped a layer; it does not count in the mean of that layer.
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
        """The embeddings `[R, h]` of the records, if they have any."""
        return self.of(embedding, group) if self._embedded and embedding is not None else None

    def of_request(self, recorded: RecordedRequest) -> Records:
        """The records that a past request would have left."""
        group = np.where(recorded.iteration == 0, 0, np.arange(len(recorded.token)))
        return self.of(recorded.gate.astype(np.float32), group), self.embeddings(recorded.embedding, group)


def sample(records: Iterable[Records], count: int, rng: np.random.Generator) -> list[Records]:
    """A random sample of up to `count` records; all are read once, and only the sample is kept in memory."""
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
                maps[place] = some[row].copy()  # a view would keep the whole request in memory
                if vectors is not None:
                    embeddings[place] = vectors[row].copy()
        seen += len(some)
    return [(np.stack(maps), np.stack(embeddings) if embeddings else None)] if maps else []
