"""Does similarity predict reuse, and how many maps cover a workload? (paper fig. 8 and 9, §4.4)

A *pair* is an iteration of a test request and a stored iteration, that is one of a history request. Its similarity is a
cosine: `semantic` of embeddings (eq. 4), `trajectory` of whole expert maps (eq. 5), `ahead` of the first half of the
layers. Its overlap is the share of the test iteration's executed experts that the stored iteration executed too, over
all layers; for `ahead` over the second half, which the similarity does not cover.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from policies.types import Bool, Float
from traces.analysis.iterations import Array, Counts, Iterations, ratio

BINS = 20
FEWEST = 10  # pairs that a bin needs to count
Single = NDArray[np.float32]
Picks = Mapping[int, Counts]  # drawn iterations by request, counted from its first one


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """`n` iterations in random order."""

    request: Counts  # [n]
    iteration: Counts  # [n] number in the trace
    maps: Single  # [n, L, J]
    demands: Bool  # [n, L, J]
    embeddings: Single | None  # [n, h]

    def __len__(self) -> int:
        return len(self.request)

    def first(self, count: int) -> "Sample":
        """The first `count` iterations, a random subset."""
        kept = slice(count)
        embeddings = None if self.embeddings is None else self.embeddings[kept]
        return Sample(
            request=self.request[kept],
            iteration=self.iteration[kept],
            maps=self.maps[kept],
            demands=self.demands[kept],
            embeddings=embeddings,
        )


def draw(lengths: Mapping[int, int], count: int, rng: np.random.Generator, skip: int = 0) -> Picks:
    """Draw up to `count` distinct iterations uniformly from all requests.

    `lengths` is the number of iterations of each request; the first `skip` of each are excluded.
    """
    requests = np.array(list(lengths), np.int64)
    available = np.maximum(np.array(list(lengths.values()), np.int64) - skip, 0)
    ends = available.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    chosen = np.sort(rng.choice(total, min(count, total), replace=False))
    owner = np.searchsorted(ends, chosen, side="right")
    place = chosen - (ends - available)[owner] + skip
    return {int(requests[one]): place[owner == one] for one in np.unique(owner)}


class Sampler:
    """Collects the iterations drawn by `draw`, request by request."""

    def __init__(self, picks: Picks) -> None:
        self._picks = picks
        self._kept: list[tuple[Counts, Counts, Single, Bool, Single | None]] = []

    def add(self, request: Iterations) -> None:
        """Keep the drawn iterations of a request."""
        if request.request not in self._picks:
            return
        picked = self._picks[request.request]
        vectors = None if request.embeddings is None else request.embeddings[picked].astype(np.float32)
        owner = np.full(len(picked), request.request)
        self._kept.append(
            (owner, request.first + picked, request.maps[picked].astype(np.float32), request.demands[picked], vectors)
        )

    def sample(self, rng: np.random.Generator) -> Sample | None:
        """The collected iterations, shuffled; None if there are none."""
        if not self._kept:
            return None
        owner, picked, maps, demands, vectors = zip(*self._kept, strict=True)
        order = rng.permutation(sum(map(len, owner)))
        return Sample(
            request=np.concatenate(owner)[order],
            iteration=np.concatenate(picked)[order],
            maps=np.concatenate(maps)[order],
            demands=np.concatenate(demands)[order],
            embeddings=None if vectors[0] is None else np.concatenate(vectors)[order],
        )


def cosines(some: Float, others: Float) -> Single:
    """Cosines `[Q, S]` of `[Q, …]` with `[S, …]`; 0 for a zero vector."""
    one, other = (unit_vectors(values.reshape(len(values), -1)) for values in (some, others))
    products: Single = one @ other.T
    return products


def overlaps(test: Bool, stored: Bool) -> Array:
    """`[Q, S]`: share of the experts in each `test` `[Q, L, J]` that each `stored` `[S, L, J]` executes too."""
    asked = test.reshape(len(test), -1).astype(np.float32)
    return ratio(asked @ stored.reshape(len(stored), -1).astype(np.float32).T, asked.sum(axis=1)[:, None])


def pearson(one: Sequence[float] | Float, other: Sequence[float] | Float) -> float | None:
    """Pearson's correlation coefficient; None for fewer than three points or a constant variable."""
    x, y = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip((x @ y) / np.sqrt((x @ x) * (y @ y)), -1, 1))


def pairs(test: Sample, stored: Sample) -> pd.DataFrame:
    """All pairs of test and stored iterations: one row per kind of similarity and pair.

    `nearest` marks, for each test iteration, the pair that a search would find: the first with the highest similarity.
    """
    half = test.maps.shape[1] // 2
    kinds = {"trajectory": (cosines(test.maps, stored.maps), overlaps(test.demands, stored.demands))}
    if half:
        kinds["ahead"] = (
            cosines(test.maps[:, :half], stored.maps[:, :half]),
            overlaps(test.demands[:, half:], stored.demands[:, half:]),
        )
    if test.embeddings is not None and stored.embeddings is not None:
        kinds["semantic"] = (cosines(test.embeddings, stored.embeddings), kinds["trajectory"][1])
    frames = []
    for kind, (similarity, share) in kinds.items():
        nearest = np.zeros(similarity.shape, bool)
        nearest[np.arange(len(test)), similarity.argmax(axis=1)] = True
        frames.append(
            pd.DataFrame(
                {
                    "similarity": kind,
                    "test_request": np.repeat(test.request, len(stored)),
                    "test_iteration": np.repeat(test.iteration, len(stored)),
                    "stored_request": np.tile(stored.request, len(test)),
                    "stored_iteration": np.tile(stored.iteration, len(test)),
                    "score": similarity.ravel(),
                    "overlap": share.ravel(),
                    "nearest": nearest.ravel(),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def binned(found: pd.DataFrame) -> pd.DataFrame:
    """Mean score and overlap of `pairs` in `BINS` equally wide bins between the lowest and the highest score."""
    edges = np.linspace(found["score"].min(), found["score"].max(), BINS + 1)
    which = np.clip(np.searchsorted(edges, found["score"], side="right") - 1, 0, BINS - 1)
    grouped = found.groupby(which)
    table = grouped[["score", "overlap"]].mean().assign(overlap_std=grouped["overlap"].std(ddof=0))
    return table.assign(pairs=grouped.size()).rename_axis("bin").reset_index()


def correlation(found: pd.DataFrame, bins: pd.DataFrame) -> dict[str, float | int | None]:
    """Pearson's correlation of score and overlap for the `pairs` of one kind, in three ways.

    Over all pairs; over the bins with at least `FEWEST` pairs, unweighted; and over the test iterations, each with its
    nearest stored iteration.
    """
    full, nearest = bins[bins["pairs"] >= FEWEST], found[found["nearest"]]
    return {
        "pearson_pairs": pearson(found["score"].to_numpy(), found["overlap"].to_numpy()),
        "pearson_bins": pearson(full["score"].to_numpy(), full["overlap"].to_numpy()),
        "pearson_nearest": pearson(nearest["score"].to_numpy(), nearest["overlap"].to_numpy()),
        "pairs": len(found),
        "bins": len(full),
        "test_iterations": len(nearest),
        "mean_overlap": float(found["overlap"].mean()),
        "nearest_overlap": float(nearest["overlap"].mean()),
        "nearest_score": float(nearest["score"].mean()),
    }


# ---- coverage of the store -------------------------------------------------------------------------------------------


def theory(layers: int, experts: int) -> dict[float, int]:
    """§4.4: number of maps that guarantees a similarity: 2LJ for 0.75 and ½·LJ·ln(LJ) for 0.98."""
    total = layers * experts
    return {0.75: 2 * total, 0.98: max(1, round(total * np.log(total) / 2))}


def coverage(test: Sample, stored: Sample, guaranteed: Mapping[float, int]) -> pd.DataFrame:
    """Similarity (cosine of whole maps) of the nearest stored map, by store size.

    One row per size: powers of two up to the sample's size, and the sizes of `theory` with the guaranteed similarity.
    A store is the first `maps` of the sample; `maps` is below `asked_maps` if the sample is smaller.
    """
    powers = [2**power for power in range(4, 31) if 2**power < min(max(guaranteed.values()), len(stored))]
    asked_maps = [(size, promised) for promised, size in guaranteed.items()]
    asked_maps += [(size, np.nan) for size in powers if size not in guaranteed.values()]
    best = np.full(len(test), -1, np.float32)
    known, rows = 0, []
    for asked, promised in sorted(asked_maps):
        maps = min(asked, len(stored))
        if maps > known:
            best = np.maximum(best, cosines(test.maps, stored.maps[known:maps]).max(axis=1))
            known = maps
        rows.append(
            {
                "asked_maps": asked,
                "maps": maps,
                "theory": promised,
                "similarity_mean": float(best.mean()),
                "similarity_p50": float(np.quantile(best, 0.5)),
                "similarity_p05": float(np.quantile(best, 0.05)),
                "share_at_least_0.75": float((best >= 0.75).mean()),
                "share_at_least_0.98": float((best >= 0.98).mean()),
                "test_iterations": len(test),
            }
        )
    return pd.DataFrame(rows)


def unit_vectors(vectors: Float) -> Single:
    """`[n, ·]` rows scaled to length one; a zero row stays zero."""
    lengths = np.sqrt(np.vecdot(vectors, vectors))[:, None]
    unit: Single = np.divide(vectors, lengths, out=np.zeros(vectors.shape, np.float32), where=lengths > 0)
    return unit
