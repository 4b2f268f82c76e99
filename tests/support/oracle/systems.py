"""The systems by name: what plans, what drops, and what waits."""

from dataclasses import dataclass
from typing import Any

from tests.support.oracle.evictors import (
    Belady,
    BeliefTimesFrequency,
    ByLayer,
    Evictor,
    LeastFrequentlyUsed,
    LeastRecentlyUsed,
    RanLast,
)
from tests.support.oracle.planners import DeepSpeed, FineMoE, MoEInfinity, PerfectPrefetch, Planner, Speculation


@dataclass(kw_only=True)
class System:
    planner: Planner
    evictor: Evictor
    preloaded: bool = False
    blocking_prediction: bool = False
    blocking_prefetch: bool = False
    compute_on_arrival: bool = True
    refused_blocks: bool = False
    chunk_bytes: Any = None


EVICTORS: dict[str, Any] = {
    "lru": LeastRecentlyUsed,
    "lfu": LeastFrequentlyUsed,
    "finemoe": BeliefTimesFrequency,
    "belady": Belady,
    "lru-by-layer": ByLayer,
}


def system_named(policy: str, instance: Any) -> System:
    """The system that a policy's text names: NAME[,setting=value…][+EVICTOR]."""
    text, _, evictor = policy.partition("+")
    name, *given = text.split(",")
    settings = {key: _value(value) for key, value in (each.split("=") for each in given)}
    system = _made(name, settings, instance)
    if evictor:
        system.evictor = EVICTORS[evictor](instance)
    return system


def _value(text: str) -> Any:
    return int(text) if text.isdigit() else {"true": True, "false": False}.get(text, text)


def _made(name: str, settings: dict[str, Any], instance: Any) -> System:
    def of(planner: Any, evictor: Any, **choices: Any) -> System:
        return System(planner=planner, evictor=evictor(instance), **choices)

    distance = settings.pop("prefetch_distance", 3)
    both = {"blocking_prediction": True, "blocking_prefetch": True}
    if name in ("lru", "lfu", "belady"):
        return of(Planner(instance), EVICTORS[name])
    if name == "no-offload":
        return of(Planner(instance), Evictor, preloaded=True)
    if name == "deepspeed":
        return of(DeepSpeed(instance), RanLast, blocking_prefetch=True, chunk_bytes="whole")
    if name == "perfect-prefetch":
        return of(PerfectPrefetch(instance, distance), LeastRecentlyUsed)
    if name == "mixtral-offloading-released":
        return of(Planner(instance), ByLayer)
    if name == "mixtral-offloading":
        return of(Speculation(instance, distance=1, learned=False), LeastRecentlyUsed, **both)
    if name == "promoe":
        return of(Speculation(instance, distance=distance, **settings), LeastRecentlyUsed)
    if name == "moe-infinity":
        return of(MoEInfinity(instance, distance=distance, **settings), LeastFrequentlyUsed, **both)
    if name == "moe-infinity-code":
        planner = MoEInfinity(instance, code=True, **settings)
        return of(planner, LeastFrequentlyUsed, blocking_prediction=True)
    assert name == "finemoe"
    if "prefill_records" in settings:
        settings["records"] = settings.pop("prefill_records")
    return of(FineMoE(instance, distance=distance, **settings), BeliefTimesFrequency)
