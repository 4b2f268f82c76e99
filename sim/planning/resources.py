"""The resources that `finemoe sim whatif` varies: their amounts at 1×, and scenarios with more or less of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import UserError
from common.tables import size, time_unit
from policies.types import Search
from sim.axes import Point, figures_set, with_figure
from sim.inputs import Inputs
from sim.scenario import Scenario

FACTORS = (0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0)  # about √2 apart
MAPS = 1000  # store size of the search time that tables show
_SPEEDS = {"link": "link", "host memory": "host", "compute": "compute", "CPU time": "cpu", "search": "search"}
SPEEDS = tuple(_SPEEDS)
"""The resources that are speeds: doubling all of them halves all times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A resource that a machine could have more or less of."""

    name: str
    at_1x: str
    """Its amount as text, or why there is nothing to vary."""
    varied: bool = True
    """Whether the machine has it."""
    count: int | None = None
    """Its number, if it is counted in whole numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """A scenario with a resource multiplied by a factor."""

    factor: float
    """The factor, after rounding to whole slots."""
    point: Point
    """The values that replace the scenario's."""
    count: int | None = None


def factor_text(factor: float) -> str:
    """A factor as text: `½×`, `1×` or `1.41×`."""
    return "½×" if factor == 0.5 else f"{factor:.3g}×"


def resources_of(scenario: Scenario, inputs: Inputs) -> Sequence[Resource]:
    """The resources of a scenario, with their amounts."""
    model, cost = inputs.model, inputs.machine.cost(inputs.model)
    effects = cost.effects
    copy_s, expert_s = cost.copy_s(int(model.expert_bytes)), cost.expert_s(1)
    search_s = cost.search_s(Search("trajectory", 0, 1, model.total_experts, MAPS))
    slots = scenario.cache.slots(model, inputs.memory)
    shared = math.isfinite(effects.host_bytes_per_s)
    cpu_s = {"a layer": effects.layer_host_s + cost.driving_s, "an expert": effects.expert_host_s}
    cpu = " + ".join(f"{_time(seconds)} {of}" for of, seconds in cpu_s.items() if seconds)
    return (
        _speed(
            "link", f"{size(model.expert_bytes / copy_s)}/s for an expert" if copy_s else None, "copies take no time"
        ),
        _speed("host memory", f"{size(effects.host_bytes_per_s)}/s" if shared else None, "not limited"),
        Resource(name="slots", at_1x=f"{slots} of {model.total_experts} experts", count=slots),
        _speed("compute", f"{_time(expert_s)} an expert" if expert_s else None, "takes no time"),
        _speed("CPU time", cpu or None, "takes no time"),
        _speed("search", f"{_time(search_s)} for {MAPS} maps" if search_s else None, "takes no time"),
        Resource(name="GPUs", at_1x=str(inputs.machine.gpus), count=inputs.machine.gpus),
    )


def variations(resource: Resource, scenario: Scenario) -> Sequence[Variation]:
    """The resource at every factor (only 1× if there is nothing to vary); the point of 1× is empty.

    GPUs vary only where the factor gives a whole number of them.
    """
    found: dict[float, Variation] = {}
    for factor in FACTORS if resource.varied else (1.0,):
        if resource.name == "GPUs" and resource.count and not (resource.count * factor).is_integer():
            continue
        each = _variation(resource, scenario, factor)
        found.setdefault(each.factor, each)
    return tuple(found.values())


def _variation(resource: Resource, scenario: Scenario, factor: float) -> Variation:
    if factor == 1:
        return Variation(factor=1.0, point={}, count=resource.count)
    if resource.count is None:
        return Variation(factor=factor, point=_scaled(scenario.machine, f"scale.{_SPEEDS[resource.name]}", factor))
    wanted = resource.count * factor
    if resource.name == "slots":
        slots = max(1, round(wanted))
        return Variation(factor=round(slots / resource.count, 4), point={"cache.experts": slots}, count=slots)
    gpus = int(wanted)
    return Variation(factor=factor, point={"machine": with_figure(scenario.machine, "gpus", gpus)}, count=gpus)


def _scaled(machine: str, figure: str, factor: float) -> Point:
    """The machine with a speed `factor` times that in its text, or its own."""
    own = figures_set(machine).get(figure, "1")
    try:
        before = float(own)
    except ValueError:
        raise UserError(f"machine {machine}: {figure} must be a number, not {own!r}") from None
    return {"machine": with_figure(machine, figure, before * factor)}


def _speed(name: str, at_1x: str | None, otherwise: str) -> Resource:
    return Resource(name=name, at_1x=at_1x or otherwise, varied=at_1x is not None)


def _time(seconds: float) -> str:
    unit = time_unit([seconds])
    return f"{unit.text(seconds)} {unit.name}"
