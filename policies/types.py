"""The types that policies, traces and both drivers share.

Shapes use the letters of the paper: `L` MoE layers, `J` routed experts per layer, `K` experts per token, `h` hidden
size, `B` requests in the batch, `T` tokens in the iteration. Layers and experts count from 0.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Int: TypeAlias = NDArray[np.integer]
Float: TypeAlias = NDArray[np.floating]
Bool: TypeAlias = NDArray[np.bool_]
Learned: TypeAlias = Mapping[str, NDArray[Any]]  # named arrays that a policy learned from its history
ChunkBytes: TypeAlias = int | Literal["whole"]  # size of the pieces in which a prefetched expert is copied


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a Mixture-of-Experts model on which routing and costs depend.

    `shared_ffn` is the total width of the shared experts of a layer (never offloaded), 0 without any. `weight_bytes` is
    the size of one parameter in memory. `expert_bytes_by_layer` is the size of an expert in each layer if layers
    differ, as under mixed quantisation, otherwise None. Copies and traffic use it. Slots are still equal, each of the
    mean size, and computation uses `weight_bytes`.
    """

    name: str
    layers: int
    experts: int
    top_k: int
    hidden: int
    expert_ffn: int
    shared_ffn: int = 0
    attention_heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    weight_bytes: float = 2.0
    expert_bytes_by_layer: tuple[int, ...] | None = None

    @property
    def expert_bytes(self) -> int:
        """Bytes of one routed expert, three matrices of hidden × FFN; the mean over layers if they differ."""
        if self.expert_bytes_by_layer is not None:
            return round(sum(self.expert_bytes_by_layer) / self.layers)
        return round(3 * self.hidden * self.expert_ffn * self.weight_bytes)

    @property
    def layer_expert_bytes(self) -> tuple[int, ...]:
        """`[L]` bytes of an expert of each layer."""
        return self.expert_bytes_by_layer or (self.expert_bytes,) * self.layers

    @property
    def total_experts(self) -> int:
        """The number of experts in all layers, L·J."""
        return self.layers * self.experts


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """All forward passes of one request: a row per token, `N` rows in the order of computation.

    Iteration 0 is the prefill and each later one a decode step; a recording without prefill starts at iteration 1.
    """

    request: int
    source: str
    iteration: Int  # [N] int32
    position: Int  # [N] int32, place of the token in its sequence
    token: Int  # [N] int32
    gate: Float  # [N, L, J] float16, softmax over all experts (or the router's normalised scores)
    experts: Int  # [N, L, K] int16, executed experts in the router's order; -1 where none was
    embedding: Float | None = None  # [N, h] float16, output of the embedding layer
    lookahead: dict[int, Float] = field(default_factory=dict)  # distance d -> [N, L, J]: router l+d at layer l's input
    residency: Int | None = None  # [N, L, K] int8, where the recording engine had each expert; codes as in the trace


class History(Protocol):
    """Requests that were served before, from which a policy may learn at its start."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[RecordedRequest]: ...


class PastRequests:
    """A history that exposes its requests and nothing else, whatever they are read from."""

    __slots__ = ("_requests",)

    def __init__(self, requests: History) -> None:
        self._requests = requests

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[RecordedRequest]:
        return iter(self._requests)


class Future(Protocol):
    """What coming requests will demand, for policies that ask for it: oracles.

    It is known per request, in the order of service. Which requests will share a batch is not known.
    """

    @property
    def requests(self) -> Sequence[int]:
        """Request ids in the order of service."""
        ...

    def demands(self, request: int) -> Bool:
        """`[iterations, L, J]`: which experts each iteration of the request executes."""
        ...


@dataclass(slots=True)
class Batch:
    """One iteration of the requests that run together."""

    iteration: int  # counts from 0 over the whole run
    request: Int  # [B] ids
    row: Int  # [T] which of the B requests each token belongs to
    prefill: Bool  # [B] whether this is the request's prefill; otherwise it is a decode step of one token
    token: Int  # [T]
    embedding: Float | None  # [T, h] output of the embedding layer, float32


@dataclass(slots=True)
class Gate:
    """The output of the router of one layer."""

    layer: int
    probs: Float  # [T, J] float32, softmax over all experts; zero for a token that executes none here
    experts: Int  # [T, K] executed experts, not always the top-k of probs; -1 where none was
    lookahead: dict[int, Float] = field(default_factory=dict)  # {distance: [T, J]}


class Iteration(Protocol):
    """A coming iteration, as the trace recorded it: only a simulator has it."""

    batch: Batch
    maps: Float  # [T, L, J] float32
    experts: Int  # [T, L, K] as executed, -1 where none was
    lookahead: dict[int, Float]  # {distance: [T, L, J]}
    starting: Sequence[int]  # requests whose first iteration this is
    ending: Sequence[int]  # requests whose last iteration this is


@dataclass(slots=True)
class Prefetch:
    """A plan to copy `experts` of `layer` to their GPUs; it replaces the earlier plan for that layer.

    If the running iteration has already gated the layer, the plan is for the next iteration.
    """

    layer: int
    experts: Sequence[int]  # distinct
    weights: Sequence[float]  # non-negative and finite, one per expert; eq. 10 divides them by the distance
    belief: Float | None = None  # [J] the predicted distribution; without it, the weights take its place


SearchKind = Literal["semantic", "trajectory", "match", "lookahead", "speculate", "update"]


@dataclass(slots=True)
class Search:
    """A piece of predictor work that takes time beside inference; plain data, so it can be logged and replayed.

    `rows` queries are compared with `entries` stored vectors of `dims` numbers each. Work of another form is charged
    by the numbers that it reads: `entries` × `dims`, once for all rows.
    """

    kind: SearchKind
    layer: int  # the layer whose gate it follows; -1 before the first
    rows: int
    dims: int
    entries: int


@dataclass(slots=True)
class Nearest:
    """What a "semantic", "trajectory" or "match" search found, for each of its `R` rows."""

    index: Int  # [R] the best entry of the store
    score: Float  # [R] its cosine similarity

    def mean_score(self) -> float:
        """The mean score of the rows."""
        score = self.score
        return float(score[0]) if len(score) == 1 else float(score.mean(dtype=np.float64))


@dataclass(slots=True)
class Likely:
    """What a "lookahead" or "speculate" search found, for each of its `R` rows (tokens, or requests)."""

    layers: Int  # [n] the predicted layers
    probs: Float  # [R, n, J] how probable each expert is there, non-negative


Found: TypeAlias = Nearest | Likely  # an "update" finds nothing


@dataclass(slots=True)
class Demand:
    """The outcome of one (iteration, layer) event: each of its distinct experts is a hit, late or a miss."""

    layer: int
    hits: list[int]
    late: list[int]
    misses: list[int]
    waves: int  # 1, unless a GPU has fewer slots than the layer needs there


@dataclass(slots=True)
class Copy:
    """One or more chunks of an expert to move over the link of a GPU into one of its slots.

    An expert is identified by its number, `layer * J + expert`. Chunks follow one another from `chunk` on; `bytes` is
    their sum.
    """

    gpu: int
    number: int
    chunk: int
    bytes: int
    slot: int
    victim: int  # the expert evicted for it, -1 if none was
    demanded: bool
    chunks: int = 1


class ResidencyView(Protocol):
    """What a policy may see of the expert cache, at the moment when it looks.

    Arrays are fresh and read-only. An expert is resident, copying or neither; a planned one may be any of them.
    """

    @property
    def resident(self) -> Bool:
        """`[L, J]`: which experts are on their GPU."""
        ...

    @property
    def copying(self) -> Bool:
        """`[L, J]`: which experts have a slot and a copy that has begun but is not complete."""
        ...

    @property
    def planned(self) -> Bool:
        """`[L, J]`: which experts are in the plan of their layer."""
        ...

    @property
    def queued_bytes(self) -> Int:
        """`[G]` int64: bytes that the link of each GPU still has to move.

        These are the rest of copies that have begun (a chunk in flight counts in full) and all waiting copies.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How long things take on the machine, in seconds, as far as known before the run.

    A profile raises a `UserError` for sizes that it was not measured for.
    """

    copy_s: Callable[[int], float]  # of so many bytes over one link, in one piece
    layer_s: Callable[[int], float]  # of one layer with so many tokens, spread evenly over its experts, all resident
    search_s: Callable[[Search], float]


def learned_at_once(learn: Callable[[], Learned]) -> Learned:
    """Call `learn` now; its arrays, read-only."""
    arrays = {name: array.view() for name, array in learn().items()}
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a policy receives before the first iteration, the same in a simulation and in a real run."""

    model: ModelShape
    slots: Sequence[int]  # [G] experts that fit on each GPU
    rng: np.random.Generator  # the only source of a policy's random numbers
    residency: ResidencyView
    history: History | None = None  # requests to learn from
    rates: Rates | None = None  # of the simulated machine, or of a profile of the real one; None without a profile
    future: Future | None = None  # of the requests that run, if the policy requires it
    learned: Callable[[Callable[[], Learned]], Learned] = (
        learned_at_once  # calls the function, or returns its earlier result
    )
    replayed: bool = False  # whether all predictions come from an earlier run, by `Prefetcher.replay`
