"""The setup of a policy where nothing is cached: in forecasts, calibrations and tests."""

import numpy as np

from policies.base import Evictor
from policies.cache.expert_cache import ExpertCache
from policies.types import Future, History, ModelShape, PastRequests, Setup


def setup_without_cache(
    model: ModelShape, rng: np.random.Generator, *, history: History | None = None, future: Future | None = None
) -> Setup:
    """A setup without rates, on one GPU with room for all experts but none of them resident."""
    nothing = ExpertCache(model, Evictor(), slots=[model.total_experts])
    return Setup(
        model=model,
        slots=(model.total_experts,),
        rng=rng,
        residency=nothing.view,
        history=PastRequests(history) if history is not None else None,
        future=future,
    )
