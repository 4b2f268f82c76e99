"""The best schedule of a tiny run on one or two GPUs: every decision at every unit of time is tried.

The laws of the machine, written down anew: each GPU has slots and a link of its own; an expert lives on one GPU, takes
a slot from the first unit of its copy on, and loses what has been copied with it. A layer takes `dense` units, then its
experts are known and computed, one after the other on each GPU, `expert` units each, once they have been copied whole.
They stay until the layer has ended, or, on a GPU with fewer slots than the layer needs there (waves), until they
have been computed. Anything may be copied at any time, in place of anything that need not stay.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple


class State(NamedTuple):
    """What is left to do, between two units of time."""

    event: int
    dense: int  # units to the gate
    computing: tuple[tuple[int, int], ...]  # per GPU the expert and the units that it still takes; -1 for none
    computed: frozenset[int]
    slots: frozenset[tuple[int, int]]  # experts that have one, and the units copied so far
    copying: tuple[int, ...]  # per GPU the expert whose copy has begun and not ended, -1 for none


class Machine(NamedTuple):
    """Times in units, slots of each GPU, and the GPU `home` of each expert."""

    dense: int
    expert: int
    copy: int
    slots: tuple[int, ...]
    home: tuple[int, ...]
    whole: bool  # a copy that has begun goes on to its end; otherwise it may give way after each unit


def least_units(events: Sequence[frozenset[int]], machine: Machine) -> int:
    """The least units of time in which the `events`, the experts of each layer in turn, can be served."""
    gpus = range(len(machine.slots))
    states = {State(0, machine.dense, tuple((-1, 0) for _ in gpus), frozenset(), frozenset(), tuple(-1 for _ in gpus))}
    units = 0
    while not any(state.event == len(events) for state in states):
        states = {later for state in states for later in _after_a_unit(state, events, machine)}
        units += 1
    return units


def _after_a_unit(state: State, events: Sequence[frozenset[int]], machine: Machine) -> Iterator[State]:
    need = events[state.event] if state.dense == 0 else frozenset()
    there = {expert for expert, units in state.slots if units == machine.copy}
    links = [_copies(gpu, state, need, events, machine) for gpu in range(len(machine.slots))]
    works = [_works(gpu, state, need & there, machine) for gpu in range(len(machine.slots))]
    for moves, work in product(product(*links), product(*works)):
        slots = dict(state.slots)
        begun = []
        for expert, victim in moves:
            slots.pop(victim, None)
            if expert >= 0:
                slots[expert] = slots.get(expert, 0) + 1
            begun.append(expert if expert >= 0 and slots[expert] < machine.copy else -1)
        left = [(expert, units - 1) for expert, units in work]
        computed = state.computed | {expert for expert, units in left if expert >= 0 and units == 0}
        computing = tuple((expert, units) if expert >= 0 and units > 0 else (-1, 0) for expert, units in left)
        event, dense = state.event, max(state.dense - 1, 0)
        if state.dense == 0 and computed >= events[event]:
            event, dense, computed = event + 1, machine.dense, frozenset()
        yield State(event, dense, computing, computed, frozenset(slots.items()), tuple(begun))


def _works(gpu: int, state: State, ready: frozenset[int], machine: Machine) -> list[tuple[int, int]]:
    """What a GPU may compute in this unit; one that can compute does."""
    if state.computing[gpu][0] >= 0:
        return [state.computing[gpu]]
    ready = {expert for expert in ready - state.computed if machine.home[expert] == gpu}
    return [(expert, machine.expert) for expert in ready] or [(-1, 1)]


def _copies(
    gpu: int, state: State, need: frozenset[int], events: Sequence[frozenset[int]], machine: Machine
) -> list[tuple[int, int]]:
    """What a link may copy in this unit, and what goes for it; -1 for nothing."""
    held = {expert: units for expert, units in state.slots if machine.home[expert] == gpu}
    if machine.whole and state.copying[gpu] >= 0:
        return [(state.copying[gpu], -1)]
    waves = sum(machine.home[expert] == gpu for expert in need) > machine.slots[gpu]
    busy = state.computing[gpu][0]
    stay = {expert for expert in need if expert == busy or not (waves and expert in state.computed)}
    found = [(-1, -1)]
    for expert in frozenset().union(*events[state.event :]):
        if machine.home[expert] != gpu or held.get(expert) == machine.copy:
            continue
        if expert in held or len(held) < machine.slots[gpu]:
            found.append((expert, -1))
        else:
            found += [(expert, victim) for victim in held if victim not in stay]
    return found
