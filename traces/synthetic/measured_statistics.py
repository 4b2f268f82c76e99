"""Measure the statistics of a trace that a synthetic trace can imitate.

Entropy, overlap and load are those of `finemoe traces analyse`. The overlaps of distant iterations come from each
request's *signature*, the frequency with which it executes each expert: random iterations of two requests share
Σ_j f_j · g_j of K experts. Clusters are found among signatures (k-means, with the number of clusters that has the best
silhouette), so they group whole requests; changes of topic within a request and drift are not detected.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from policies.types import Bool, Int, ModelShape, RecordedRequest
from traces.analysis.entropy import Entropies
from traces.analysis.iterations import Array, Iterations, iterations_of, top
from traces.analysis.popularity import Popularity
from traces.analysis.similarity import Single
from traces.format.reader import Trace
from traces.synthetic.parameters import Statistics
from traces.synthetic.trajectory_search import SEARCHED, TrajectorySearch

SIGNATURES = 1000  # random requests whose signatures are clustered
ITERATIONS = 10  # iterations of each of them that are compared by token
MOST_CLUSTERS = 32
CLEAR = 0.1  # minimum silhouette of clusters; below it all requests are one cluster
ENOUGH = 3  # decode iterations needed for a first and a last third


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The `Parameters` that can be measured in a trace."""

    statistics: Statistics
    clusters: int
    silhouette: float | None  # of the clusters, from −1 to 1; None with too few requests for clustering
    trajectory_recall: float | None  # of the nearest expert map; None with too few layers
    lookahead: dict[int, float]  # distance -> share of executed experts in its top K


def measure(
    trace: Trace, progress: Callable[[Sequence[int]], Iterable[int]] = lambda ids: ids, *, seed: int = 0
) -> Measured:
    """Measure a trace, reading every request once; `progress` wraps the iteration over request numbers."""
    shape = trace.shape
    ids = trace.request_ids
    rng = np.random.default_rng(seed)
    kept = rng.permutation(len(ids))[:SIGNATURES]
    popularity, entropies = Popularity(shape.layers, shape.experts), Entropies(shape.layers, shape.experts)
    few = {ids[place] for place in kept}
    signatures, tokens = Signatures(shape, few), SameToken(shape, few)
    shuffled = rng.permutation(ids).tolist()
    searched = shuffled[: min(SEARCHED, len(ids) // 2)]
    stored = {one: trace.infos[one].output_tokens for one in shuffled[len(searched) :]}
    search = TrajectorySearch(shape, stored, searched, rng, skip=int(trace.meta.prefill))
    speculation = Speculation(shape)
    for number in progress(ids):
        recorded = trace.read(number)
        request = iterations_of(recorded, trace.meta.prefill)
        popularity.add(request)
        entropies.add(request)
        signatures.add(request)
        tokens.add(request, recorded.token)
        search.add(request)
        speculation.add(recorded)
    overlap = popularity.overlaps()["overlap"].to_numpy()
    if len(signatures.found) < 2 or np.isnan(overlap).any() or not signatures.long_enough:
        raise UserError(f"{trace.path}: measuring needs two requests, one of them with {ENOUGH} decode iterations")
    labels, silhouette = clusters_of(np.stack(signatures.found))
    chance = shape.top_k / shape.experts
    within_cluster = np.clip(signatures.cluster_overlap(labels), chance, 1)
    same_token = tokens.overlap()
    found = Statistics(
        entropy_bits=_tuple(entropies.per_layer()["fine_decode_bits"].to_numpy()),
        overlap=_tuple(overlap),
        request_overlap=_tuple(np.clip(signatures.request_overlap(), chance, 1)),
        cluster_overlap=_tuple(within_cluster),
        token_overlap=_tuple(within_cluster if same_token is None else np.clip(same_token, chance, 1)),
        load_cv=_tuple(popularity.balance()["coefficient_of_variation"].to_numpy()),
    )
    return Measured(
        statistics=found,
        clusters=int(labels.max()) + 1,
        silhouette=silhouette,
        trajectory_recall=search.recall(),
        lookahead=speculation.recall(),
    )


def _tuple(values: Array) -> tuple[float, ...]:
    return tuple(values.tolist())


class Signatures:
    """Signatures of the `kept` requests, and the overlap of early and late iterations of all requests."""

    def __init__(self, shape: ModelShape, kept: set[int]) -> None:
        self._kept = kept
        self._top_k = shape.top_k
        self._shared = np.zeros(shape.layers)
        self.long_enough = 0  # requests
        self.found: list[Single] = []  # [L, J] each

    def add(self, request: Iterations) -> None:
        """Add a request."""
        decode = request.demands[request.prefill :]
        if len(decode) and request.request in self._kept:
            self.found.append(decode.mean(axis=0, dtype=np.float32))
        third = len(decode) // ENOUGH
        if third:
            self._shared += (decode[:third].mean(axis=0) * decode[-third:].mean(axis=0)).sum(axis=1) / self._top_k
            self.long_enough += 1

    def request_overlap(self) -> Array:
        """`[L]`: overlap of iterations in the first and the last third of a request; mean over requests."""
        return self._shared / self.long_enough

    def cluster_overlap(self, labels: Int) -> Array:
        """`[L]`: overlap of iterations of two requests with the same label `[R]`; mean over pairs of requests."""
        found = np.stack(self.found)
        shared, pairs = _within(found, labels)
        with_itself, alone = _within(found, np.arange(len(found)))
        return (shared - with_itself) / (pairs - alone) / self._top_k


class SameToken:
    """Overlap of decode iterations of different requests with the same token, from a few iterations of each."""

    def __init__(self, shape: ModelShape, kept: set[int]) -> None:
        self._kept = kept
        self._top_k = shape.top_k
        self._owner: list[int] = []
        self._token: list[int] = []
        self._demands: list[Bool] = []

    def add(self, request: Iterations, token: Int) -> None:
        """Add a request and the tokens of its rows."""
        decode = request.demands[request.prefill :]
        if not len(decode) or request.request not in self._kept:
            return
        chosen = np.unique(np.linspace(0, len(decode) - 1, ITERATIONS).astype(np.int64))
        self._owner += [request.request] * len(chosen)
        self._token += token[-len(decode) :][chosen].tolist()
        self._demands.append(decode[chosen])

    def overlap(self) -> Array | None:
        """`[L]`: mean overlap over pairs of iterations; None without any pair."""
        demands = np.concatenate(self._demands)
        _, token = np.unique(self._token, return_inverse=True)
        _, owner = np.unique(self._owner, return_inverse=True)
        shared, pairs = _within(demands, token)
        of_one, not_counted = _within(demands, token * (owner.max() + 1) + owner)
        if pairs == not_counted:
            return None
        found: Array = (shared - of_one) / (pairs - not_counted) / self._top_k
        return found


def _within(members: Single | Bool, group: Int) -> tuple[Array, int]:
    """`[L]`: products summed over ordered pairs of `members` `[n, L, J]` in one group, with self-pairs; their count."""
    order = np.argsort(group, kind="stable")
    first = np.unique(group[order], return_index=True)[1]
    sums = np.add.reduceat(members[order], first, axis=0, dtype=np.float64)
    products: Array = (sums**2).sum(axis=(0, 2))
    return products, int((np.diff(first, append=len(group)) ** 2).sum())


class Speculation:
    """Recall of the recorded lookahead gates: share of executed experts in their top K."""

    def __init__(self, shape: ModelShape) -> None:
        self._shape = shape
        self._shared: dict[int, int] = {}
        self._executed: dict[int, int] = {}

    def add(self, recorded: RecordedRequest) -> None:
        """Add a request."""
        for distance, gate in recorded.lookahead.items():
            predicted = top(gate[:, :-distance].astype(np.float32), self._shape.top_k)
            executed = recorded.experts[:, distance:]
            shared = int((predicted[..., :, None] == executed[..., None, :]).sum())
            self._shared[distance] = self._shared.get(distance, 0) + shared
            self._executed[distance] = self._executed.get(distance, 0) + int((executed >= 0).sum())

    def recall(self) -> dict[int, float]:
        """Recall by distance."""
        return {distance: shared / self._executed[distance] for distance, shared in self._shared.items()}


def clusters_of(signatures: Single) -> tuple[Int, float | None]:
    """Cluster labels `[R]` of signatures `[R, L, J]`, and the silhouette; all labels are 0 without clear clusters."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    flat = signatures.reshape(len(signatures), -1)
    best: Int = np.zeros(len(flat), np.int64)
    highest: float | None = None
    # Clusters of fewer than three requests on average would be chance.
    for count in range(2, min(MOST_CLUSTERS, len(flat) // 3) + 1):
        labels = KMeans(count, n_init=4, random_state=0).fit(flat).labels_
        score = float(silhouette_score(flat, labels)) if len(np.unique(labels)) > 1 else -1.0
        if highest is None or score > highest:
            highest, found = score, labels
    if highest is not None and highest >= CLEAR:
        best = np.unique(found, return_inverse=True)[1]
    return best, highest
