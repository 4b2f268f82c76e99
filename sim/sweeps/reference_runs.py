"""The runs that others are measured against: scenarios like any other, run only when a table asks for them.

no-offload     every expert on its GPU; the same for every size of the cache
clairvoyant    a policy that knows every demand to come: a strong heuristic, not a bound
lower-bound    the least makespan of any policy with this cache (`sim.results.bounds`), from no-offload's run
regret         the policy with perfect prediction or with perfect eviction in place of its own
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Literal, get_args

from common.errors import FieldError, UserError, nearest
from policies.base import Policy
from policies.cache.placement import least_slots
from policies.naming import inside, parts_of
from policies.registry import EVICTORS, make_policy
from sim.inputs import Inputs
from sim.results.policy_comparison import BEST, RESIDENT
from sim.scenario import CacheSize, Detail, Scenario

Reference = Literal["no-offload", "clairvoyant", "lower-bound", "regret"]
DEFAULT_REFERENCES: tuple[Reference, ...] = ("no-offload", "clairvoyant")
EVERY_BOUND: tuple[Reference, ...] = (*DEFAULT_REFERENCES, "lower-bound")

PREDICTS_PERFECTLY = "perfect-prefetch"
EVICTS_PERFECTLY = "belady"


def references_named(text: str, known: tuple[Reference, ...] = get_args(Reference)) -> tuple[Reference, ...]:
    """The references that a text such as `no-offload,regret` names, out of the known ones; `none` names none."""
    if text.strip() == "none":
        return ()
    for name in map(str.strip, text.split(",")):
        if name not in known:
            raise FieldError("references", f"unknown reference {name!r}; {nearest(name, known)}")
    return tuple(each for each in known if each in map(str.strip, text.split(",")))


def reference_runs(scenario: Scenario, inputs: Inputs, wanted: Collection[Reference]) -> Mapping[str, Scenario]:
    """The scenarios that one is measured against, by what its results call them.

    All have the scenario's detail, but no-offload keeps its iterations, from which a lower bound is computed.
    """
    found: dict[str, Scenario] = {}
    if "no-offload" in wanted or "lower-bound" in wanted:
        found["no_offload"] = resident(scenario, inputs)
    if "clairvoyant" in wanted:
        found["clairvoyant"] = replace(scenario, policy=BEST, label=None)
    if "regret" in wanted:
        for name, policy in _perfected(scenario.policy).items():
            found[name] = replace(scenario, policy=policy, label=None)
    return found


def resident(scenario: Scenario, inputs: Inputs) -> Scenario:
    """The scenario with every expert on its GPU, the same for all sizes of the cache, which then has no meaning."""
    detail: Detail = "iterations" if scenario.detail == "requests" else scenario.detail
    size = CacheSize(experts=least_slots(inputs.model, inputs.machine.gpus))
    return replace(scenario, policy=RESIDENT, cache=size, detail=detail, label=None)


def _perfected(spec: str) -> Mapping[str, str]:
    """A policy with perfect prediction and with perfect eviction; nothing for one that knows the future anyway."""
    policy = make_policy(spec)
    if policy.preloaded or "future" in policy.requires:
        return {}
    first, *evictors = parts_of(spec)
    found = {"belady": f"{first}+{EVICTS_PERFECTLY}"}
    evictor = evictors[0] if evictors else _name_of_evictor(policy)
    if evictor:
        found["perfect_prefetch"] = f"{PREDICTS_PERFECTLY}{_distance(policy)}+{evictor}"
    return {name: each for name, each in found.items() if _can_be_made(each)}


def _name_of_evictor(policy: Policy) -> str | None:
    """What the evictor of a policy is called, if it has a name of its own."""
    for name, place in EVICTORS.items():
        if type(policy.evictor) is inside(place):
            return name
    return None


def _distance(policy: Policy) -> str:
    """The setting that makes perfect prediction look as far ahead as the policy does, if it says how far."""
    distance = getattr(policy.prefetcher, "prefetch_distance", None)
    return f",prefetch_distance={distance}" if isinstance(distance, int) else ""


def _can_be_made(spec: str) -> bool:
    try:
        make_policy(spec)
    except UserError:
        return False
    return True
