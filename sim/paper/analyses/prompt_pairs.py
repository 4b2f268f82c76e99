"""Similar prompts and the experts that they share, in every reading of the paper's description of figures 8 and 9.

The paper plots the hit rate (the share of overlapping experts) over the similarity score, with "one data point per
prompt" for all pairs. It does not say which part of a prompt is compared. We compute similarity and overlap of:

| compared | of two prompts |
|---|---|
| all iterations | every decode step of one with every decode step of the other; mean |
| same iteration | decode steps at the same position; mean |
| nearest iteration | each decode step of one with the most similar one of the other; mean |
| prefill | the prefills: embeddings, maps, and the experts that any token of the prompt executes |
| prefill, top K | the prefills, and the K most probable experts of their maps |
| request, top K | means over all iterations, and the K most probable experts of the mean maps |

A data point is then a *prompt* (its mean over all other prompts), a *pair* of prompts, or a prompt with the *nearest*
other prompt. Three more readings do not compare pairs of prompts:

- *search*: each decode step of a prompt with the most similar one of all other prompts, averaged per prompt. This is
  what FineMoE does.
- *iteration pairs*: a data point per pair of decode steps of different prompts.
- *iteration pairs, unequal tokens*: only pairs whose tokens differ.

*All iterations, entropy taken out* is the first reading minus a linear fit over the mean entropy of a prompt's maps,
because flat maps are similar to all others.

Similarity is a cosine: *semantic* of embeddings (eq. 4), *trajectory* of whole expert maps (eq. 5).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from common.threads import one_thread
from policies.types import Bool, Float, Int
from sim.paper.analyses.sampled_prompts import sampled
from traces.analysis.entropy import entropy_bits
from traces.analysis.iterations import Array, Counts, iterations_of, top
from traces.analysis.similarity import Single, cosines, overlaps, pearson, unit_vectors
from traces.format.reader import Trace

SEMANTIC, TRAJECTORY = "semantic", "trajectory"
ALL_ITERATIONS = "all iterations"
PROMPT, PAIR, NEAREST = "prompt", "pair", "nearest"
SEARCHED = ("search", PROMPT)
ENTROPY_OUT = "all iterations, entropy taken out"
MAIN = (ALL_ITERATIONS, PROMPT)
"""The reading that claims are judged by: what is compared, and what a data point is. It follows "one data point per
prompt" and "all pairs" literally, and compares iterations because the paper's maps and embeddings are per iteration."""


class _Compared(NamedTuple):
    """Every prompt compared with every other."""

    score: Array  # [P, P]
    overlap: Array  # [P, P] the share of the row's experts that the column executes too


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    """One prompt."""

    vectors: Mapping[str, Single]  # by similarity, [I, ·] unit vectors of its decode steps
    demands: Single  # [I, L·J] 1 where a decode step executes an expert
    tokens: Int  # [I]
    entropy: float  # mean over its decode steps and layers
    whole: Mapping[str, Mapping[str, Float]]  # by what is compared and similarity, [·]
    experts: Mapping[str, Bool]  # by what is compared, [L, J]


def similar_prompts(trace: Trace, settings: Mapping[str, Any]) -> pd.DataFrame:
    """A row per reading and similarity with Pearson's coefficient; for the main reading also a row per prompt.

    Compares `steps` evenly spaced decode steps of each prompt; searches for the nearest step look at all steps.
    """
    prompts = [_prompt(trace, request) for request in sampled(trace, settings)]
    shortest = min(len(prompt.tokens) for prompt in prompts)
    steps = np.unique(np.linspace(0, shortest - 1, min(settings["steps"], shortest)).round().astype(int))
    kinds = [SEMANTIC] * trace.meta.embedding + [TRAJECTORY]
    with one_thread():
        rows = [row for kind in kinds for row in _readings(prompts, kind, steps)]
    return pd.DataFrame(rows).assign(prompts_compared=len(prompts), steps=len(steps))


def _prompt(trace: Trace, request: int) -> _Prompt:
    recorded = trace.read(request)
    its = iterations_of(recorded, trace.meta.prefill)
    decode = slice(int(its.prefill), None)
    of_kind: dict[str, Float] = {TRAJECTORY: its.maps.reshape(len(its), -1)}
    if its.embeddings is not None:
        of_kind[SEMANTIC] = its.embeddings
    top_k = trace.shape.top_k
    whole = {"request, top K": {kind: values.mean(axis=0) for kind, values in of_kind.items()}}
    experts = {"request, top K": _marked(its.maps.mean(axis=0), top_k)}
    if its.prefill:
        first = {kind: values[0] for kind, values in of_kind.items()}
        whole |= {"prefill": first, "prefill, top K": first}
        experts |= {"prefill": its.demands[0], "prefill, top K": _marked(its.maps[0], top_k)}
    return _Prompt(
        vectors={kind: unit_vectors(values[decode]) for kind, values in of_kind.items()},
        demands=its.demands[decode].reshape(len(its) - int(its.prefill), -1).astype(np.float32),
        tokens=recorded.token[recorded.iteration > 0],
        entropy=float(entropy_bits(its.maps[decode]).mean()),
        whole=whole,
        experts=experts,
    )


def _readings(prompts: Sequence[_Prompt], kind: str, steps: Counts) -> Iterator[dict[str, Any]]:
    for compared, of_pairs in _compared(prompts, kind, steps):
        for point in (PROMPT, PAIR, NEAREST):
            score, overlap = _points(of_pairs, point)
            yield _row(compared, point, kind, score, overlap)
            if (compared, point) == MAIN:
                yield from _point_rows(compared, point, kind, score, overlap)
                entropy = np.array([prompt.entropy for prompt in prompts])
                yield _row(ENTROPY_OUT, point, kind, _left(score, entropy), _left(overlap, entropy))
    yield _row(*SEARCHED, kind, *_searched(prompts, kind, steps))
    yield from _iteration_pairs(prompts, kind, steps)


def _marked(probabilities: Float, top_k: int) -> Bool:
    """`[L, J]`: true for the `top_k` most probable experts of each layer."""
    marked = np.zeros(probabilities.shape, bool)
    np.put_along_axis(marked, top(probabilities, top_k).astype(np.int64), True, axis=1)
    return marked


# ---- every prompt with every other -----------------------------------------------------------------------------------


def _compared(prompts: Sequence[_Prompt], kind: str, steps: Counts) -> Iterator[tuple[str, _Compared]]:
    yield ALL_ITERATIONS, _all_iterations(prompts, kind)
    yield "same iteration", _same_iteration(prompts, kind, steps)
    yield "nearest iteration", _nearest_iteration(prompts, kind, steps)
    for compared in prompts[0].whole:
        vectors = np.stack([prompt.whole[compared][kind] for prompt in prompts])
        experts = np.stack([prompt.experts[compared] for prompt in prompts])
        yield compared, _Compared(cosines(vectors, vectors).astype(np.float64), overlaps(experts, experts))


def _all_iterations(prompts: Sequence[_Prompt], kind: str) -> _Compared:
    """Uses that the mean over all pairs is the product of the means."""
    vectors = np.stack([prompt.vectors[kind].mean(axis=0, dtype=np.float64) for prompt in prompts])
    asked = np.stack([_asked(prompt.demands).mean(axis=0, dtype=np.float64) for prompt in prompts])
    there = np.stack([prompt.demands.mean(axis=0, dtype=np.float64) for prompt in prompts])
    return _Compared(vectors @ vectors.T, asked @ there.T)


def _same_iteration(prompts: Sequence[_Prompt], kind: str, steps: Counts) -> _Compared:
    vectors = np.stack([prompt.vectors[kind][steps] for prompt in prompts]).reshape(len(prompts), -1)
    asked = np.stack([_asked(prompt.demands[steps]) for prompt in prompts]).reshape(len(prompts), -1)
    there = np.stack([prompt.demands[steps] for prompt in prompts]).reshape(len(prompts), -1)
    return _Compared((vectors @ vectors.T) / len(steps), (asked @ there.T) / len(steps))


def _nearest_iteration(prompts: Sequence[_Prompt], kind: str, steps: Counts) -> _Compared:
    score, overlap = np.zeros((2, len(prompts), len(prompts)))
    for row, one in enumerate(prompts):
        asked = _asked(one.demands[steps])
        for column, other in enumerate(prompts):
            likeness = one.vectors[kind][steps] @ other.vectors[kind].T
            score[row, column] = likeness.max(axis=1).mean()
            overlap[row, column] = np.vecdot(asked, other.demands[likeness.argmax(axis=1)]).mean()
    return _Compared(score, overlap)


def _asked(demands: Single) -> Single:
    """Rows scaled to the sum 1, so that the product with another's demands is the share of shared experts."""
    shares: Single = demands / np.maximum(demands.sum(axis=1, keepdims=True), 1)
    return shares


def _points(of_pairs: _Compared, point: str) -> tuple[Array, Array]:
    """Scores and overlaps of the data points, without comparing a prompt with itself."""
    score, overlap = of_pairs
    count = len(score)
    others = ~np.eye(count, dtype=bool)
    if point == PAIR:
        return score[others], overlap[others]
    if point == PROMPT:
        means = [values[others].reshape(count, -1).mean(axis=1) if count > 1 else values[0, :0] for values in of_pairs]
        return means[0], means[1]
    nearest = np.where(others, score, -np.inf).argmax(axis=1)
    rows = np.arange(count)
    return score[rows, nearest], overlap[rows, nearest]


def _left(values: Array, explained_by: Array) -> Array:
    """The residuals of a linear fit, shifted to the mean of the values."""
    if np.ptp(explained_by) == 0:
        return values
    slope = np.cov(explained_by, values)[0, 1] / explained_by.var(ddof=1)
    found: Array = values - slope * (explained_by - explained_by.mean())
    return found


# ---- single iterations -----------------------------------------------------------------------------------------------


def _searched(prompts: Sequence[_Prompt], kind: str, steps: Counts) -> tuple[Array, Array]:
    """Per prompt, the mean score and overlap of its steps with the most similar step of any other prompt."""
    vectors = np.concatenate([prompt.vectors[kind] for prompt in prompts])
    demands = np.concatenate([prompt.demands for prompt in prompts])
    owner = np.repeat(np.arange(len(prompts)), [len(prompt.tokens) for prompt in prompts])
    found = []
    for number, prompt in enumerate(prompts):
        likeness = prompt.vectors[kind][steps] @ vectors.T
        likeness[:, owner == number] = -np.inf
        nearest = likeness.argmax(axis=1)
        shared = np.vecdot(_asked(prompt.demands[steps]), demands[nearest])
        found.append((likeness.max(axis=1).mean(), shared.mean()))
    score, overlap = np.array(found, np.float64).T
    return score, overlap


def _iteration_pairs(prompts: Sequence[_Prompt], kind: str, steps: Counts) -> list[dict[str, Any]]:
    vectors = np.concatenate([prompt.vectors[kind][steps] for prompt in prompts])
    demands = np.concatenate([prompt.demands[steps] for prompt in prompts])
    tokens = np.concatenate([prompt.tokens[steps] for prompt in prompts])
    owner = np.repeat(np.arange(len(prompts)), len(steps))
    score, overlap = vectors @ vectors.T, _asked(demands) @ demands.T
    apart = owner[:, None] != owner
    unequal = apart & (tokens[:, None] != tokens)
    return [
        _row(name, "iteration pair", kind, score[which], overlap[which])
        for name, which in (("iteration pairs", apart), ("iteration pairs, unequal tokens", unequal))
    ]


# ---- rows ------------------------------------------------------------------------------------------------------------


def _row(compared: str, point: str, kind: str, score: Float, overlap: Float) -> dict[str, Any]:
    """A row for a reading: means and Pearson's coefficient of its data points."""
    coefficient = pearson(score, overlap)
    return {
        "compared": compared,
        "data_point": point,
        "similarity": kind,
        "row": "coefficient",
        "prompt": np.nan,
        "score": float(score.mean()) if len(score) else np.nan,
        "hit_rate": float(overlap.mean()) if len(overlap) else np.nan,
        "pearson": np.nan if coefficient is None else coefficient,
        "data_points": len(score),
    }


def _point_rows(compared: str, point: str, kind: str, score: Float, overlap: Float) -> list[dict[str, Any]]:
    return [
        {
            "compared": compared,
            "data_point": point,
            "similarity": kind,
            "row": "point",
            "prompt": float(number),
            "score": float(each),
            "hit_rate": float(shared),
        }
        for number, (each, shared) in enumerate(zip(score, overlap, strict=True))
    ]
