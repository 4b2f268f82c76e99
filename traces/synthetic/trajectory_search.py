"""What a search by trajectory finds in a trace: how much of the layers ahead the nearest expert map knows."""

from collections.abc import Mapping, Sequence

import numpy as np

from policies.types import Bool, Float, Int, ModelShape
from traces.analysis.iterations import Array, Iterations, top
from traces.analysis.similarity import Sampler, Single, draw

DISTANCE = 3  # layers that are looked ahead: the prefetch distance of the paper
MAPS = 1000  # in the store, as in the paper
LONGEST = 512  # decode iterations; what follows in a request is not searched for
SEARCHED = 32  # requests
_STEP = 24  # decode iterations from one that is searched for to the next, so that long requests weigh more


class TrajectorySearch:
    """Searches for decode iterations of some requests among stored ones of others and those before in the same request.

    So a policy searches that learns as it goes. `stored` gives the number of iterations of each of the other requests,
    the first `skip` of which are no decode iterations; `MAPS` are drawn from them.
    """

    def __init__(
        self, shape: ModelShape, stored: Mapping[int, int], searched: Sequence[int], rng: np.random.Generator, skip: int
    ) -> None:
        self._shape = shape
        self._skip = skip
        self._searched = set(searched)
        self._rng = rng
        self._stored = Sampler(draw(stored, MAPS, rng, skip))
        self._requests: list[tuple[Float, Bool]] = []

    def add(self, request: Iterations) -> None:
        """Take a request in."""
        self._stored.add(request)
        if request.request in self._searched:
            decode = slice(self._skip, self._skip + LONGEST)
            self._requests.append((request.maps[decode].astype(np.float16), request.demands[decode].copy()))

    def recall(self) -> float | None:
        """Share of the executed experts that the nearest map ranks first; None where there is nothing to find."""
        stored = self._stored.sample(self._rng)
        if stored is None or self._shape.layers <= DISTANCE:
            return None
        found = []
        for maps, demands in self._requests:
            if len(maps):
                rows = np.arange(min(_STEP // 2, len(maps) - 1), len(maps), _STEP)
                said = predicted(stored.maps, maps.astype(np.float32), rows, self._shape.top_k).astype(np.int64)
                found.append(np.take_along_axis(demands[rows, DISTANCE:], said, axis=2).mean(axis=(1, 2)))
        return float(np.concatenate(found).mean()) if found else None


def predicted(stored: Single, request: Single, rows: Int, top_k: int) -> Int:
    """`[Q, L − d, K]`: the top K in layers d … L−1, d = `DISTANCE`, of the map that is nearest to each of `rows` `[Q]`.

    Among the stored ones `[C, L, J]` and those before in the request `[I, L, J]`, by the cosine of the trajectories up
    to d layers before (paper eq. 5); the first among equals.
    """
    known = np.concatenate([stored, request])
    products = np.matmul(request[rows].transpose(1, 0, 2), known.transpose(1, 2, 0)).cumsum(axis=0)  # [L, Q, C + I]
    lengths: Array = np.sqrt(np.vecdot(known, known).cumsum(axis=1).T)  # [L, C + I]
    cosines = products / lengths[:, None]  # but for the rows' own lengths, which are the same for all
    cosines[:, np.arange(len(known)) >= len(stored) + rows[:, None]] = -np.inf
    nearest = cosines[:-DISTANCE].argmax(axis=2).T  # [Q, L − d]
    return top(known[nearest, np.arange(DISTANCE, known.shape[1])], top_k)
