"""The simulator against a second one, which shares no rule with it and was written from `docs/` alone.

348 random small instances: hits, late experts, misses and bytes of every iteration are equal, and all times within
1e-9. What an operation costs is drawn, the same for both, so that no two events coincide by chance: rooflines, links
and profiles are checked in tests/sim/hardware, and how time is split among its parts is not compared here. Where two
moments of the oracle, or two scores of one of its searches, differ by rounding alone, their order says nothing, and
another instance is drawn.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from tests.support.oracle.instances import Instance, drawn_instance
from tests.support.oracle.random_planner import random_system
from tests.support.oracle.simulator import Oracle
from tests.support.oracle.systems import system_named
from tests.support.slow_cases import slow_but

PLANNER = "tests.support.oracle.random_planner:random_planner"
FAMILIES: dict[str, tuple[int, tuple[str, ...]]] = {  # how many instances, and of which policies in turn
    "planner": (90, (PLANNER,)),
    "on demand": (24, ("lru", "lfu", "belady", "no-offload", "mixtral-offloading-released", "lru+finemoe")),
    "finemoe": (48, ("finemoe,prefetch_distance=1", "finemoe,prefetch_distance=2")),
    "finemoe's settings": (
        24,
        (
            "finemoe,prefetch_distance=1,capacity=5",
            "finemoe,prefetch_distance=2,capacity=9,fill=redundancy",
            "finemoe,prefetch_distance=1,capacity=9,learn=false,threshold=demo",
            "finemoe,prefetch_distance=1,prefill_records=iteration",
            "finemoe,prefetch_distance=2,semantic=false,threshold=top-k",
            "finemoe,prefetch_distance=1,queue=all,reach=rest",
        ),
    ),
    "moe-infinity": (24, ("moe-infinity,prefetch_distance=1", "moe-infinity,prefetch_distance=2,capacity=3")),
    "moe-infinity-code": (18, ("moe-infinity-code", "moe-infinity-code,capacity=3")),
    "promoe": (24, ("promoe,prefetch_distance=1", "promoe,prefetch_distance=2,lookahead=false")),
    "mixtral-offloading": (18, ("mixtral-offloading",)),
    "deepspeed": (12, ("deepspeed",)),
    "other evictors": (
        18,
        (
            "perfect-prefetch,prefetch_distance=2",
            "finemoe,prefetch_distance=1+belady",
            "promoe,prefetch_distance=1+lru-by-layer",
            "moe-infinity,prefetch_distance=1+finemoe",
            "mixtral-offloading+lfu",
            "perfect-prefetch,prefetch_distance=2+finemoe",
        ),
    ),
    "serial waits": (
        42,
        (PLANNER, "deepspeed", PLANNER, "mixtral-offloading", PLANNER, "moe-infinity,prefetch_distance=1"),
    ),
    "serial waits, chosen": (6, (PLANNER,)),
}
SERIAL_WAITS = ("serial waits", "serial waits, chosen")
"""Several GPUs whose links take turns under a policy that waits for its prefetches."""
CHOSEN = (700713, 701301, 702795, 703576, 703636, 710423)
"""Seeds where the order of the links that wait decides figures, and in the last two what they do when their layer is
planned again."""
INSTANCES = 348
ALL = {family: count for family, (count, _) in FAMILIES.items()}
FEW = {"planner": 30, "on demand": 12, "finemoe": 16, "promoe": 8, "serial waits": 18, "serial waits, chosen": 6}
"""The first instances of some families, which `make test` compares."""


@cache
def drawn(family: str, count: int) -> tuple[list[tuple[Instance, Oracle]], int]:
    """The first instances of a family with what the oracle says of them, and how many had to be drawn again."""
    policies = FAMILIES[family][1]
    number, runs, doubtful = 1000 * list(FAMILIES).index(family), [], 0
    while len(runs) < count:
        policy, number = policies[len(runs) % len(policies)], number + 1
        if family == "serial waits, chosen":
            number = CHOSEN[len(runs)]
        instance = drawn_instance(number, f"{policy},seed={number}" if policy == PLANNER else policy)
        if family in SERIAL_WAITS:
            instance = replace(instance, demand_loading="serial")
        system = random_system(instance) if policy == PLANNER else system_named(policy, instance)
        waits = system.blocking_prefetch and instance.prefetch and instance.gpus > 1
        if family in SERIAL_WAITS and not waits:
            continue
        oracle = Oracle(instance, system).run()
        if oracle.clock.near_misses or system.planner.doubts:
            doubtful += 1
        else:
            runs.append((instance, oracle))
    return runs, doubtful


def differences(instance: Instance, oracle: Oracle) -> Iterator[str]:
    """What the project's own simulator says otherwise."""
    run = instance.simulated()
    if len(run.iterations) != len(oracle.rows):
        yield f"{len(run.iterations)} iterations, not {len(oracle.rows)}"
        return
    for number, row in enumerate(oracle.rows):
        ours = run.iterations.iloc[number]
        for name in ("hits", "late", "misses", "copied_bytes"):
            if ours[name] != row[name]:
                yield f"iteration {number}: {name} {ours[name]}, not {row[name]}"
        for name in ("start_s", "end_s"):
            if not near(ours[name], row[name]):
                yield f"iteration {number}: {name} {ours[name]}, not {row[name]}"
    for request, times in oracle.requests.items():
        ours = run.requests.set_index("request").loc[request]
        begin_s, first_s, end_s = times["start_s"], times.get("first_s"), times["end_s"]
        decoding_s = end_s - (begin_s if first_s is None else first_s)
        expected = {
            "ttft_s": np.nan if first_s is None else first_s - begin_s,
            "tpot_s": decoding_s / times["decoded"] if times["decoded"] else np.nan,
            "latency_s": end_s - begin_s,
        }
        for name, value in expected.items():
            if not near(ours[name], value):
                yield f"request {request}: {name} {ours[name]}, not {value}"
    if not near(run.makespan_s, oracle.clock.now):
        yield f"makespan {run.makespan_s}, not {oracle.clock.now}"
    if run.counts.evictions != oracle.copies.evictions:
        yield f"{run.counts.evictions} evictions, not {oracle.copies.evictions}"


def near(one: float, other: float) -> bool:
    return bool(np.isclose(one, other, rtol=1e-9, atol=0, equal_nan=True))


@pytest.mark.parametrize(("family", "count"), slow_but([*dict.fromkeys((*FEW.items(), *ALL.items()))], *FEW.items()))
def test_both_simulators_give_the_same_numbers(family: str, count: int) -> None:
    for instance, oracle in drawn(family, count)[0]:
        found = list(differences(instance, oracle))
        assert not found, f"seed {instance.seed}, {instance.policy}: {found[:4]}"


@pytest.mark.parametrize("instances", slow_but([FEW, ALL], FEW), ids=["few", "all"])
def test_random_instances_cover_all_claimed_features(instances: dict[str, int]) -> None:
    """Counts are of all instances; of a part of them, in proportion."""
    runs = [run for family, count in instances.items() for run in drawn(family, count)[0]]
    assert len(runs) == (INSTANCES if instances is ALL else sum(FEW.values()))
    seen = Counter(what for _, oracle in runs for what in oracle.seen)
    for instance, oracle in runs:
        effects = instance.effects
        seen["several GPUs"] += instance.gpus > 1
        seen["prefills"] += any(any(each.iteration == 0) for each in instance.requests)
        seen["several requests at once"] += instance.batch_size > 1 and len(instance.requests) > 1
        seen["tokens that pass a layer by"] += any((each.experts < 0).any() for each in instance.requests)
        seen["CPU time"] += effects.layer_host_s > 0 or effects.expert_host_s > 0
        seen["without prefetch"] += not instance.prefetch
        seen["no effect at all"] += instance.effects == type(effects)() and instance.demand_loading == "parallel"
        seen["evictions"] += oracle.copies.evictions > 0
    waits = [run for family in SERIAL_WAITS for run in drawn(family, instances[family])[0]]
    seen_in_waits = Counter(what for _, oracle in waits for what in oracle.seen)

    def too_few(least: dict[str, int], found: Counter[str]) -> dict[str, int]:
        return {what: found[what] for what in least if found[what] < max(1, least[what] * len(runs) // INSTANCES)}

    least = {
        "several GPUs": 150,
        "prefills": 170,
        "several requests at once": 90,
        "tokens that pass a layer by": 15,
        "evictions": 180,
        "waves": 70,
        "late": 75,
        "several chunks": 100,
        "cancelled": 35,
        "begun prefetch gave way": 15,
        "prefetch wait": 50,
        "search wait": 50,
        "demand to a replica": 35,
        "prefetch to a replica": 35,
        "waited for its turn": 40,
        "host memory binds": 45,
        "contention": 60,
        "CPU time": 110,
        "no effect at all": 30,
        "without prefetch": 15,
        "prefetch waited for its turn": 40,
        "turn went on": 6,
        "planned again while links wait": 2,
    }
    assert too_few(least, seen) == {}
    of_waits = {"prefetch wait": 40, "several chunks": 20, "prefetch to a replica": 8, "waves": 7, "cancelled": 1}
    assert too_few(of_waits, seen_in_waits) == {}


@pytest.mark.parametrize("instances", slow_but([FEW, ALL], FEW), ids=["few", "all"])
def test_few_instances_are_doubtful(instances: dict[str, int]) -> None:
    """Else the draw would say little."""
    assert sum(drawn(family, count)[1] for family, count in instances.items()) < sum(instances.values()) // 4
