"""Does fine-grained prediction beat coarse? Recall of the executed experts, from recorded routing.

This checks the model, not a policy: every predictor chooses K experts of a layer for one token before that layer's
router runs, and the score is the share of the executed experts among them. The actual policies are in `policies/`.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from policies.types import Float, Int
from traces.analysis.iterations import top
from traces.analysis.nearest_map import nearest_maps, predicted_ahead


@dataclass(frozen=True, slots=True)
class Routing:
    """The routing of the `T` tokens of one text; the first `prompt` of them are not predicted."""

    token: Int  # [T] ids
    gate: Float  # [T, L, J] softmax over all experts
    experts: Int  # [T, L, K] experts executed
    prompt: int
    ahead: Mapping[int, Int] = field(
        default_factory=dict
    )  # {d: [T, L−d, K]}: top K of router l+d applied to the input of router l


@dataclass(frozen=True, slots=True)
class Recall:
    """Mean recall of four predictors at one prefetch distance, over the same tokens and layers."""

    distance: int
    fine: float  # the nearest stored expert map, by cosine of the trajectory
    coarse: float  # the request's own counts so far
    popularity: float  # counts over all stored texts
    speculation: float  # the layer's own router, applied to the input of the router d layers earlier
    same_token: float  # share of the nearest stored maps that belong to the same token as the query

    @property
    def shares(self) -> tuple[float, ...]:
        """Fine, coarse, popularity, speculation."""
        return self.fine, self.coarse, self.popularity, self.speculation


def recall(
    stored: Sequence[Routing],
    requests: Sequence[Routing],
    distances: Sequence[int],
    capacity: int = 1000,
    seed: int = 0,
) -> list[Recall]:
    """Recall at each prefetch distance `d`, over layers `d … L−1` and all tokens of `requests` beyond their prompts.

    The store holds `sample(stored, capacity, seed)` (paper eq. 5 with a random store); ties go to the first map. Ties
    of a request's counts are resolved by popularity, which also predicts its first token. `requests` must have `ahead`
    for these distances.
    """
    layers, top_k, width = (*stored[0].experts.shape[1:], stored[0].gate.shape[2])
    for distance in distances:
        if not 1 <= distance < layers:
            raise ValueError(f"distance {distance} must be between 1 and {layers - 1}")
    popularity = expert_load(stored) * top_k  # [L, J] per token
    popular = top(popularity, top_k)  # [L, K]
    store = sample(stored, capacity, seed)
    coarse, popularity_hits = np.zeros(layers), np.zeros(layers)
    fine, speculation, same = (np.zeros((len(distances), layers)) for _ in range(3))
    tokens = 0
    for request in requests:
        rows = slice(request.prompt, None)
        executed = one_hot(request.experts, width)  # [T, L, J]
        seen = (np.cumsum(executed, axis=0) - executed)[rows]  # by earlier tokens of the request
        truth = executed[rows]
        tokens += len(truth)
        popularity_hits += _hits(truth, np.broadcast_to(popular, (len(truth), *popular.shape)))
        coarse += _hits(truth, top(seen + popularity / 2, top_k))  # a half keeps counts above popularity
        nearest = nearest_maps(request.gate[rows], store.gate)  # [T, L]
        for at, distance in enumerate(distances):
            found = nearest[:, : layers - distance]
            fine[at, distance:] += _hits(truth[:, distance:], predicted_ahead(nearest, store.gate, distance, top_k))
            speculation[at, distance:] += _hits(truth[:, distance:], request.ahead[distance][rows])
            same[at, distance:] += (store.token[found] == request.token[rows, None]).sum(axis=0)
    return [
        Recall(
            distance=distance,
            fine=_share(fine[at], distance, tokens * top_k),
            coarse=_share(coarse, distance, tokens * top_k),
            popularity=_share(popularity_hits, distance, tokens * top_k),
            speculation=_share(speculation[at], distance, tokens * top_k),
            same_token=_share(same[at], distance, tokens),
        )
        for at, distance in enumerate(distances)
    ]


def _share(hits: Float, distance: int, each: int) -> float:
    """Mean of `hits` `[L]` from layer `distance` on, divided by the `each` possible hits per layer."""
    return float(hits[distance:].mean() / each)


def sample(stored: Sequence[Routing], capacity: int, seed: int) -> Routing:
    """Up to `capacity` tokens drawn at random from all texts, in order, as one text."""
    sizes = [len(text.token) for text in stored]
    kept = np.sort(np.random.default_rng(seed).permutation(sum(sizes))[:capacity])
    edges = np.cumsum([0, *sizes])
    inside = [kept[(kept >= low) & (kept < high)] - low for low, high in itertools.pairwise(edges)]
    token, gate, experts = (
        np.concatenate([getattr(text, name)[rows] for text, rows in zip(stored, inside, strict=True)])
        for name in ("token", "gate", "experts")
    )
    return Routing(token, gate.astype(np.float32), experts, prompt=0)


def same_token_by_chance(store: Routing, requests: Sequence[Routing]) -> float:
    """The expected share of same tokens if maps were drawn from the store at random."""
    tokens = np.concatenate([request.token[request.prompt :] for request in requests])
    length = int(max(tokens.max(), store.token.max())) + 1
    share = np.bincount(store.token, minlength=length) / len(store.token)
    return float(share[tokens].mean())


def expert_load(texts: Sequence[Routing]) -> Float:
    """`[L, J]`: share of each expert in its layer's T·K assignments."""
    counts = sum(one_hot(text.experts, text.gate.shape[2]).sum(axis=0, dtype=np.float64) for text in texts)
    load: Float = counts / np.sum(counts, axis=1, keepdims=True)
    return load


def one_hot(experts: Int, width: int) -> Float:
    """`[…, K]` ids → `[…, J]` with a one at each id."""
    marks = np.zeros((*experts.shape[:-1], width), dtype=np.float32)
    np.put_along_axis(marks, experts.astype(np.int64), 1.0, axis=-1)
    return marks


def _hits(truth: Float, chosen: Int) -> Float:
    """`[L]`: number of `chosen` experts `[T, L, K]` that were executed, by `truth` `[T, L, J]`."""
    hits: Float = np.take_along_axis(truth, chosen.astype(np.int64), axis=-1).sum(axis=(0, 2), dtype=np.float64)
    return hits
