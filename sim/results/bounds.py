r"""Lower bounds for every policy: the fewest loads that serve a run, and the least time for loads and computing.

**Fewest loads.** Take one GPU with c slots. Let E_i be the experts that event i, an (iteration, layer), needs there,
and C_i the GPU's contents when the layer ends; C_0 is empty. All of E_i are pinned until then, so E_i ⊆ C_i and |C_i|
≤ c. Experts in C_i that were not in C_{i−1} have been loaded in between, by prefetch or on demand, so a run has at
least Σ |C_i − C_{i−1}| loads. Delaying a load until its expert is needed never adds a load, so we may assume C_i ⊆
C_{i−1} ∪ E_i. Only the choice of victims remains, and evicting the farthest next use is best (Belady; by exchange, as
for single requests). A layer that runs in waves releases its experts before it ends. Then only this is certain: each
expert of E_i has been there at some time, which costs |E_i − C_{i−1}| loads, and C_i may be any c experts of C_{i−1} ∪
E_i, of which those with the nearest next uses are best.

**Least time.** A link moves one expert after another, from time 0 on, each in the fastest chunks. Iteration k cannot
end before the fewest loads of the iterations up to k have arrived, and the later iterations take at least as long as
with every expert in place. The bound is the largest sum of both over all k and GPUs. It is never below the computing
time, nor below the loads of any link. If the links share host memory, all loads together take at least as long as their
bytes at its bandwidth.

**Windows.** Slots are few, so not all loads can be made early. Let t_i be the time when the last expert of event i has
been computed. At t_i the GPU's slots hold at most c experts, including those on their way, and E_i is among them unless
the layer ran in waves. An expert that has no slot at t_i but is needed by an event up to j is copied whole between t_i
and t_j. Let D be the experts that the events i + 1 … j need on this GPU. Experts of E_i that are not in D also take
slots, so at most c − |E_i \ D| experts of D have one, and t_j − t_i is at least the time of |D| − (c − |E_i \ D|)
copies. With several GPUs, a different one may need most copies in each window. The windows of a run follow each other,
and the bound is the longest path through them. It includes the two arguments above: t_i is also at least the time of
the fewest loads up to event i, and a layer takes at least its computing time after t_{i−1}.

**With replicas**, an expert may come over several links, so no load belongs to a certain link. But no expert is on two
GPUs at a time: the contents of all GPUs when a layer ends are a C_i of one cache with all their slots, and the argument
above applies to it. Here a layer counts as running in waves if, on any GPU, the experts that may live there are more
than its slots. Of the loads of all G links, some link moves at least a G-th, rounded up. Computing may also be spread
differently than in the run with every expert in place, which keeps each expert at its first home. So a layer takes at
least as long as its longest expert, and at least a G-th of the sum over its experts.
"""

from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from policies.cache.placement import homes_of, place, split_slots
from policies.types import Int
from sim.engine.batching import Step, fixed_batches
from sim.hardware.costs import Cost
from sim.inputs import Inputs
from sim.scenario import Scenario

WINDOW = 8  # iterations that a window covers at most
BLOCK = 2048  # events at a time
_NEVER = 1 << 62


def makespan_lower_bound_s(scenario: Scenario, inputs: Inputs, resident_end_s: NDArray[np.float64]) -> float:
    """A lower bound of the makespan in seconds, for every policy with the cache of the scenario.

    `resident_end_s` `[iterations]` is the end of each iteration of `no-offload`.
    """
    model, machine = inputs.model, inputs.machine
    home = place(scenario.placement, model, machine.gpus, inputs.history, inputs.expert_counts)
    slots = split_slots(model, scenario.cache.slots(model, inputs.memory), machine.gpus)
    steps = list(fixed_batches(inputs.requests, scenario.batch_size))
    cost = machine.cost(model)
    copy_s = min(map(cost.least_copy_s, model.layer_expert_bytes))  # whichever layers the loads are in
    loads = fewest_loads(steps, home, slots, scenario.replicas)
    through_s = min(model.layer_expert_bytes) / cost.effects.host_bytes_per_s
    if scenario.replicas == 1:
        layer_s = np.array([_layer_s(step, cost, machine.gpus) for step in steps])
        windows = window_loads(steps, home, slots)
        return least_time_s(loads, copy_s, resident_end_s, layer_s, windows, through_s=through_s)
    end_s = np.cumsum([_iteration_s(step, cost, machine.gpus) for step in steps])
    return least_time_s(loads, copy_s, end_s, through_s=through_s)


def fewest_loads(steps: Iterable[Step], home: Int, slots: Sequence[int], replicas: int = 1) -> Int:
    """`[iterations, G]`: the fewest copies to each GPU that serve all iterations up to each one.

    `home` `[L, J]` is the GPU of each expert, `slots` the number of slots of each GPU. With replicas the result is
    `[iterations, 1]`: the fewest copies of the link that moves most.
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


def least_time_s(
    loads: Int,
    copy_s: float,
    resident_end_s: NDArray[np.float64],
    layer_s: NDArray[np.float64] | None = None,
    windows: Iterable[Int] = (),
    *,
    through_s: float = 0.0,
) -> float:
    """The least time in seconds for these loads, `[iterations, G]` from `fewest_loads`, which take `copy_s` each.

    Over all links together, each load takes at least `through_s`. `resident_end_s` `[iterations]` is the earliest end
    of each iteration with every expert in place. `layer_s` `[iterations, L]` is the least time of each layer up to its
    last expert; `windows` come from `window_loads`.
    """
    end_s = 0.0
    iteration_s = np.diff(resident_end_s, prepend=0.0).tolist()
    loaded_s = np.maximum(loads.max(axis=1) * copy_s, loads.sum(axis=1) * through_s).tolist()
    if layer_s is None:
        for own_s, least_s in zip(iteration_s, loaded_s, strict=True):
            end_s = max(end_s + own_s, least_s)
        return end_s
    layers = layer_s.shape[1]
    after = chain.from_iterable(windows)
    reached_s = np.zeros(layer_s.size + WINDOW * layers)  # bounds from windows that have begun
    event = 0
    for own_s, least_s, each_s in zip(iteration_s, loaded_s, layer_s.tolist(), strict=True):
        now_s = end_s
        for layer, computing_s in enumerate(each_s):
            now_s = max(now_s + computing_s, float(reached_s[event]))
            if layer == layers - 1:
                now_s = max(now_s, least_s)
            event += 1
            ahead = reached_s[event : event + WINDOW * layers]
            np.maximum(ahead, now_s + next(after)[: len(ahead)] * copy_s, out=ahead)
        end_s = max(end_s + own_s, now_s)
    return end_s


def window_loads(steps: Sequence[Step], home: Int, slots: Sequence[int]) -> Iterator[Int]:
    """Blocks `[events, WINDOW · L]`: the copies that some link must make in the window from an event to a later one.

    Column w is the window that ends w + 1 events later.
    """
    layers, experts = home.shape
    wide = WINDOW * layers
    needs = [[layer * experts + x for x in each] for step in steps for layer, each in enumerate(step.demands)]
    number = np.array([x for each in needs for x in each], np.int64)
    event = np.repeat(np.arange(len(needs)), [len(each) for each in needs])
    gpu = home.reshape(-1)[number]
    needed = np.zeros((len(needs), len(slots)), np.int64)
    np.add.at(needed, (event, gpu), 1)
    stay = ~(needed > np.array(slots)).any(axis=1)  # events whose experts are all present when they end
    following = _following(number, event)
    ahead = np.minimum((following - event) // layers, WINDOW + 1)  # iterations to the next use, [N]
    since = np.full(len(number), WINDOW + 1)  # iterations since the last use, [N]
    known = following < _NEVER
    place_of = {pair: at for at, pair in enumerate(zip(number.tolist(), event.tolist(), strict=True))}
    later = [place_of[pair] for pair in zip(number[known].tolist(), following[known].tolist(), strict=True)]
    since[later] = ahead[known]
    # [iterations, events, G]: demands not used for this many iterations before, and not used again for as many.
    new = np.zeros((WINDOW + 2, len(needs) + wide + 1, len(slots)), np.int32)
    idle = np.zeros((WINDOW + 2, len(needs), len(slots)), np.int32)
    for count in range(1, WINDOW + 2):
        np.add.at(new[count], (event[since >= count], gpu[since >= count]), 1)
        np.add.at(idle[count], (event[ahead >= count], gpu[ahead >= count]), 1)
    idle[:, ~stay] = 0
    for begin in range(0, len(needs), BLOCK):
        end = min(begin + BLOCK, len(needs))
        distinct = np.zeros((end - begin, len(slots)), np.int32)
        found = np.zeros((end - begin, wide), np.int32)
        for length in range(1, wide + 1):
            distinct += new[-(-length // layers), begin + length : end + length]
            unused = idle[length // layers + 1, begin:end]
            found[:, length - 1] = (distinct + unused - np.array(slots)).max(axis=1)
        yield np.maximum(found, 0)


def _layer_s(step: Step, cost: Cost, gpus: int) -> list[float]:
    """The least time of each layer up to its last expert, wherever its experts are."""
    effects = cost.effects
    dense_s = cost.dense_s(len(step.batch.token), step.context, step.attended) + effects.layer_host_s
    found = []
    for layer, experts in enumerate(step.demands):
        loads = [1] * len(experts) if step.loads is None else step.loads[layer]
        experts_s = [cost.expert_s(count) for count in loads]
        host_s = len(experts) * effects.expert_host_s
        found.append(dense_s + host_s + max([*experts_s, sum(experts_s) / gpus], default=0.0))
    return found


def _iteration_s(step: Step, cost: Cost, gpus: int) -> float:
    """The least time of an iteration, wherever its experts are."""
    layers_s = _layer_s(step, cost, gpus)
    after_s = cost.exchange_s(len(step.batch.token)) + cost.driving_s
    return sum(layers_s) + len(layers_s) * after_s + cost.head_s(len(step.batch.request))


def _following(number: Int, event: Int) -> Int:
    """`[N]`: for each of N demands in order, the event that demands the same expert next."""
    order = number.argsort(kind="stable")
    following = np.full(len(number), _NEVER)
    same = number[order[1:]] == number[order[:-1]]
    following[order[:-1][same]] = event[order[1:]][same]
    return following


def _loads_of_one(number: Int, event: Int, following: Int, waves: Int, room: int) -> list[int]:
    """The event of each load of one GPU, if the expert with the farthest next use is evicted."""
    loads: list[int] = []
    held: dict[int, int] = {}  # next use of each cached expert
    farthest: list[tuple[int, int]] = []  # heap of (−next use, expert), some outdated
    starts = np.flatnonzero(np.diff(event, prepend=-1)).tolist()
    numbers, nexts, events, in_waves = number.tolist(), following.tolist(), event.tolist(), set(waves.tolist())
    for start, end in pairwise([*starts, len(numbers)]):
        now = events[start]
        missing = [x for x in numbers[start:end] if x not in held]
        loads += [now] * len(missing)
        if now not in in_waves:  # the layer's experts stay
            _drop(held, farthest, room - len(missing))
        for x, next_use in zip(numbers[start:end], nexts[start:end], strict=True):
            held[x] = next_use
            heappush(farthest, (-next_use, x))
        if now in in_waves:
            _drop(held, farthest, room)
    return loads


def _drop(held: dict[int, int], farthest: list[tuple[int, int]], room: int) -> None:
    """Evict the experts with the farthest next uses until at most `room` are left."""
    while len(held) > room:
        next_use, x = heappop(farthest)
        if held.get(x) == -next_use:
            del held[x]
