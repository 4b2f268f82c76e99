"""Profiles of machines that were never measured, for tests to simulate with."""

from typing import Any

from policies.types import ModelShape
from sim.hardware.profile import Profile, Table


def flat_profile(model: ModelShape, *, seconds: dict[str, float] | None = None, **changes: Any) -> Profile:
    """Each operation takes the same at any size that was measured: 5 for dense, 4 an expert, 10 a copy, 2 the head."""
    takes = {"expert": 4.0, "dense": 5.0, "head": 2.0, "copy": 10.0} | (seconds or {})
    tables = {
        name: Table(sizes=(1, 1000) if name != "copy" else (1, model.expert_bytes), seconds=(value, value))
        for name, value in takes.items()
    }
    rest: dict[str, Any] = {
        "name": "flat",
        "gpus": 1,
        "dense_s_per_attended": 0.0,
        "most_attended": 100_000,
        "driving_s": 1.0,
        "copy_latency_s": 0.0,
        "search_overhead_s": 0.5,
        "search_bytes_per_s": 1e3,
        "search_flops_per_s": 1e3,
        "measured": {"device": "paper and pencil", "threads": 1, "room_celsius": 21.5},
    }
    return Profile(model=model, **(tables | rest | changes))
