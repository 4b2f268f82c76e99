"""Hit rate of the cache in the engine that recorded a trace.

Counts, as a simulation does, the distinct experts of each (iteration, layer). If several tokens of a prompt use an
expert, it counts as missed if any of its rows is a miss, since the engine loads it once for all of them.
"""

from dataclasses import dataclass

import numpy as np

from policies.executed import demands_of
from traces.format.reader import Trace


@dataclass(frozen=True, slots=True)
class RecordedHits:
    """Hits and misses, counted over the distinct experts of all (iteration, layer) events."""

    demanded: int = 0
    hits: int = 0
    missed_bytes: int = 0

    def __add__(self, other: "RecordedHits") -> "RecordedHits":
        return RecordedHits(
            self.demanded + other.demanded, self.hits + other.hits, self.missed_bytes + other.missed_bytes
        )

    @property
    def rate(self) -> float | None:
        """Hits / demanded; None if nothing was demanded."""
        return self.hits / self.demanded if self.demanded else None


def recorded_hits(trace: Trace) -> dict[str, RecordedHits]:
    """Hits by phase: `prefill`, `decode` and `all`. The trace must have the column `residency`; reads every request."""
    found = {"prefill": RecordedHits(), "decode": RecordedHits()}
    size = np.array(trace.shape.layer_expert_bytes)[:, None]
    for recorded in trace.iter():
        assert recorded.residency is not None
        iteration = recorded.iteration - trace.meta.first_iteration
        demanded = demands_of(recorded.experts, iteration, trace.shape.experts)
        missing = np.where(recorded.residency == 0, recorded.experts, -1)
        missed = demands_of(missing, iteration, trace.shape.experts)
        prompt = int(trace.meta.prefill)
        for phase, some in (("prefill", slice(prompt)), ("decode", slice(prompt, None))):
            asked, misses = int(demanded[some].sum()), int(missed[some].sum())
            found[phase] += RecordedHits(asked, asked - misses, int((missed[some] * size).sum()))
    return found | {"all": found["prefill"] + found["decode"]}


def described(found: dict[str, RecordedHits]) -> str:
    """One line such as `hit rate 76.78 % (prefill 0.00, decode 81.91) of 24,578 …`."""

    def percent(phase: str) -> str:
        rate = found[phase].rate
        return "–" if rate is None else f"{rate:.2%}".removesuffix("%")

    whole, decode = found["all"], found["decode"]
    return (
        f"hit rate {percent('all')} % (prefill {percent('prefill')}, decode {percent('decode')}) of {whole.demanded:,} "
        f"distinct experts per iteration and layer; missed {whole.missed_bytes:,} bytes, "
        f"{decode.missed_bytes:,} of them in decode"
    )
