"""What no policy can pass: the fewest loads that serve a run, and the least time that they and the computing take.

**Fewest loads.** Take one GPU with c slots. Let E_i be the experts that event i, an (iteration, layer), needs there,
and C_i what the GPU holds when the layer ends; C_0 is empty. All of E_i are pinned until then, so E_i ⊆ C_i and |C_i|
≤ c. Whatever is in C_i and was not in C_{i−1} has been loaded in between, by prefetch or on demand, so a run has at
least Σ |C_i − C_{i−1}| loads. Putting off a load until its expert is needed never adds one, so C_i ⊆ C_{i−1} ∪ E_i is
no loss. What remains is the choice of what to drop, and there the farthest next use is best (Belady; by exchange, as
for single requests). A layer that runs in waves releases its experts before it ends. Then only this is certain: each of
E_i has been there at some time, which costs |E_i − C_{i−1}| loads, and C_i is any c of C_{i−1} ∪ E_i, the nearest next
uses being best.

**Least time.** A link moves one expert after the other, from time 0 on, each in the chunks that take the least.
Iteration k cannot end before the fewest loads of the iterations up to it have arrived, and what follows takes at least
as long as with every expert in place. The bound is the largest sum of both over all k and GPUs; it is never below the
computing, nor below the loads of any link.

**With replicas** an expert may come over several links, so no link has loads that are surely its own. But no expert is
on two GPUs at a time: what all of them hold when a layer ends is a C_i of one cache with all their slots, and the
argument above holds for it, where a layer counts as one that runs in waves if on any GPU the experts that may live
there are more than its slots. Of the loads of all G links, some link moves at least a G-th, rounded up. Computing too
may be spread otherwise than in the run with every expert in place, which keeps each at its first home: a layer takes at
least as long as its longest expert, and at least a G-th of what its experts take together.
"""

from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from policies.cache.placement import homes_of, place, split_slots
from policies.types import Int
from sim.engine.batching import Step, fixed_batches
from sim.hardware.costs import Cost
from sim.inputs import Inputs
from sim.scenario import Scenario

_NEVER = 1 << 62


def makespan_lower_bound_s(scenario: Scenario, inputs: Inputs, resident_end_s: NDArray[np.float64]) -> float:
    """Seconds that no policy can pass with the cache of the scenario.

    `resident_end_s` `[iterations]` is when each iteration of `no-offload` ends.
    """
    model, machine = inputs.model, inputs.machine
    home = place(scenario.placement, model, machine.gpus, inputs.history, inputs.expert_counts)
    slots = split_slots(model, scenario.cache.slots(model), machine.gpus)
    steps = fixed_batches(inputs.requests, scenario.batch_size)
    cost = machine.cost(model)
    copy_s = min(map(cost.least_copy_s, model.layer_expert_bytes))  # of whatever layer the fewest loads are
    if scenario.replicas == 1:
        return least_time_s(fewest_loads(steps, home, slots), copy_s, resident_end_s)
    computing_s: list[float] = []
    loads = fewest_loads(_timed(steps, cost, machine.gpus, computing_s), home, slots, scenario.replicas)
    return least_time_s(loads, copy_s, np.cumsum(computing_s))


def fewest_loads(steps: Iterable[Step], home: Int, slots: Sequence[int], replicas: int = 1) -> Int:
    """`[iterations, G]`: the fewest copies to each GPU that serve all iterations up to each one.

    `home` `[L, J]` is the GPU of each expert and `slots` how many fit there. With replicas it is `[iterations, 1]`: the
    fewest copies of the link that moves most.
    """
    layers, experts = home.shape
    numbers: list[int] = []  # of all experts demanded
    sizes: list[int] = []  # per event
    for step in steps:
        for layer, demanded in enumerate(step.demands):
            numbers += [layer * experts + expert for expert in demanded]
            sizes.append(len(demanded))
    number = np.array(numbers, np.int64)
    event = np.repeat(np.arange(len(sizes)), sizes)
    gpus = homes_of(home, replicas, len(slots)).reshape(-1, replicas)[number]  # [N, R]
    needed = np.zeros((len(sizes), len(slots)), np.int64)
    np.add.at(needed, (event[:, None], gpus), 1)
    waves = np.flatnonzero((needed > np.array(slots)).any(axis=1))  # events
    following = _following(number, event)
    gpu, rooms = (gpus[:, 0], slots) if replicas == 1 else (np.zeros_like(number), [sum(slots)])
    loads = np.zeros((len(sizes) // layers, len(rooms)), np.int64)
    for each, room in enumerate(rooms):
        own = gpu == each
        at = _loads_of_one(number[own], event[own], following[own], waves, room)
        loads[:, each] = np.bincount(np.array(at, np.int64) // layers, minlength=len(loads))
    loads = loads.cumsum(axis=0)
    return loads if replicas == 1 else -(-loads // len(slots))


def least_time_s(loads: Int, copy_s: float, resident_end_s: NDArray[np.float64]) -> float:
    """The least time in seconds for so many loads, `[iterations, G]` as from `fewest_loads`, of `copy_s` each.

    `resident_end_s` `[iterations]` is when each iteration ends, at the earliest, with every expert in place.
    """
    makespan_s = float(resident_end_s[-1])
    least_s = loads.max(axis=1) * copy_s + (makespan_s - resident_end_s)
    return max(makespan_s, float(least_s.max()))


def _timed(steps: Iterable[Step], cost: Cost, gpus: int, computing_s: list[float]) -> Iterator[Step]:
    """The same steps; the least time that each computes, wherever its experts are, is added to `computing_s`."""
    for step in steps:
        tokens = len(step.batch.token)
        each_s = cost.dense_s(tokens, step.context, step.attended) + cost.exchange_s(tokens) + cost.driving_s
        total_s = cost.head_s(len(step.batch.request))
        for layer, experts in enumerate(step.demands):
            loads = [1] * len(experts) if step.loads is None else step.loads[layer]
            experts_s = [cost.expert_s(count) for count in loads]
            total_s += each_s + max(*experts_s, sum(experts_s) / gpus)
        computing_s.append(total_s)
        yield step


def _following(number: Int, event: Int) -> Int:
    """`[N]` the event that demands the same expert next, for each of N demands in order."""
    order = number.argsort(kind="stable")
    following = np.full(len(number), _NEVER)
    same = number[order[1:]] == number[order[:-1]]
    following[order[:-1][same]] = event[order[1:]][same]
    return following


def _loads_of_one(number: Int, event: Int, following: Int, waves: Int, room: int) -> list[int]:
    """The event of each load of one GPU, dropping the farthest next use."""
    loads: list[int] = []
    held: dict[int, int] = {}  # next use of each expert
    farthest: list[tuple[int, int]] = []  # heap of (−next use, expert), some outdated
    starts = np.flatnonzero(np.diff(event, prepend=-1)).tolist()
    numbers, nexts, events, in_waves = number.tolist(), following.tolist(), event.tolist(), set(waves.tolist())
    for start, end in pairwise([*starts, len(numbers)]):
        now = events[start]
        missing = [x for x in numbers[start:end] if x not in held]
        loads += [now] * len(missing)
        if now not in in_waves:  # what the layer needs stays
            _drop(held, farthest, room - len(missing))
        for x, next_use in zip(numbers[start:end], nexts[start:end], strict=True):
            held[x] = next_use
            heappush(farthest, (-next_use, x))
        if now in in_waves:
            _drop(held, farthest, room)
    return loads


def _drop(held: dict[int, int], farthest: list[tuple[int, int]], room: int) -> None:
    """Drop the farthest next uses until no more than `room` are held."""
    while len(held) > room:
        next_use, x = heappop(farthest)
        if held.get(x) == -next_use:
            del held[x]
