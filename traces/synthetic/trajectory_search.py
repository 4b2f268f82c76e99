"""Recall of a trajectory search in a trace: how well the nearest expert map predicts the layers ahead."""

from collections.abc import Mapping, Sequence

import numpy as np

from policies.types import Bool, Float, Int, ModelShape
from traces.analysis.iterations import Array, Iterations, top
from traces.analysis.similarity import Sampler, Single, draw

DISTANCE = 3  # layers ahead: the prefetch distance of the paper
MAPS = 1000  # size of the store, as in the paper
LONGEST = 512  # decode iterations per request; later ones are not searched for
SEARCHED = 32  # requests
_STEP = 24  # every 24th decode iteration is searched for, so that long requests weigh more


class TrajectorySearch:
    """Searches for decode iterations of some requests among stored ones of others and earlier ones of the same request.

    This is how a policy searches that keeps learning. `stored` is the number of iterations of each stored request; the
    first `skip` are not decode iterations. `MAPS` of them are drawn.
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
        """Add a request."""
        self._stored.add(request)
        if request.request in self._searched:
            decode = slice(self._skip, self._skip + LONGEST)
            self._requests.append((request.maps[decode].astype(np.float16), request.demands[decode].copy()))

    def recall(self) -> float | None:
        """Share of the executed experts in the top K of the nearest map; None without stored or searched iterations."""
        stored = self._stored.sample(self._rng)
        if stored is None or self._shape.layers <= DISTANCE:
            return None
        found = []
        for maps, demands in self._requests:
            if len(maps):
                rows = np.arange(min(_STEP // 2, len(maps) - 1), len(maps), _STEP)
                experts = predicted(stored.maps, maps.astype(np.float32), rows, self._shape.top_k).astype(np.int64)
                found.append(np.take_along_axis(demands[rows, DISTANCE:], experts, axis=2).mean(axis=(1, 2)))
        return float(np.concatenate(found).mean()) if found else None


def predicted(stored: Single, request: Single, rows: Int, top_k: int) -> Int:
    """`[Q, L − d, K]`: the top K in layers d … L−1, d = `DISTANCE`, of the map nearest to each of `rows` `[Q]`.

    The search covers the `stored` maps `[C, L, J]` and the earlier maps of the `request` `[I, L, J]`, by cosine of the
    trajectories up to d layers before (paper eq. 5); ties go to the first.
    """
    known = np.concatenate([stored, request])
    products = np.matmul(request[rows].transpose(1, 0, 2), known.transpose(1, 2, 0)).cumsum(axis=0)  # [L, Q, C + I]
    lengths: Array = np.sqrt(np.vecdot(known, known).cumsum(axis=1).T)  # [L, C + I]
    cosines = products / lengths[:, None]  # up to the norm of the row, which is the same for all maps
    cosines[:, np.arange(len(known)) >= len(stored) + rows[:, None]] = -np.inf
    nearest = cosines[:-DISTANCE].argmax(axis=2).T  # [Q, L − d]
    return top(known[nearest, np.arange(DISTANCE, known.shape[1])], top_k)
