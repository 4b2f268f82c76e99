"""The runs that others are measured against: scenarios like any other, run only when a table asks for them.

no-offload     every expert on its GPU; the same for every size of the cache
best-known     policies that know every demand to come, of which the fastest counts: strong heuristics, not bounds
lower-bound    the least makespan of any policy with this cache (`sim.results.bounds`), from no-offload's run
regret         the policy with perfect prediction or with perfect eviction in place of its own

**Best known** is the lowest mean TPOT of `clairvoyant` and of perfect prefetch with Belady's evictor at the distances
`DISTANCES`, of those equal all. None of them is always the fastest: `clairvoyant` is, on one GPU with batches of one,
by up to 26 % (gpt-oss-20b, half of the experts); perfect prefetch is by up to 13 % on six GPUs with few slots or in
batches, where the future is an estimate. More distances change the minimum by less than 1 %. The three runs take about
as long as that of `clairvoyant`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

from common.errors import FieldError, UserError, nearest
from policies.base import Policy
from policies.cache.placement import least_slots
from policies.naming import inside, parts_of
from policies.registry import EVICTORS, make_policy
from sim.inputs import Inputs
from sim.results.policy_comparison import RESIDENT
from sim.scenario import CacheSize, Detail, Scenario

Reference = Literal["no-offload", "best-known", "lower-bound", "regret"]
DEFAULT_REFERENCES: tuple[Reference, ...] = ("no-offload", "best-known")
EVERY_BOUND: tuple[Reference, ...] = (*DEFAULT_REFERENCES, "lower-bound")

KNOWS_ALL = "clairvoyant"
PREDICTS_PERFECTLY = "perfect-prefetch"
EVICTS_PERFECTLY = "belady"
DISTANCES = (3, 6, 12)  # in layers, of perfect prefetch


def references_named(text: str, known: tuple[Reference, ...] = get_args(Reference)) -> tuple[Reference, ...]:
    """The references that a text such as `no-offload,regret` names, out of the known ones; `none` names none."""
    if text.strip() == "none":
        return ()
    for name in map(str.strip, text.split(",")):
        if name not in known:
            raise FieldError("references", f"unknown reference {name!r}; {nearest(name, known)}")
    return tuple(each for each in known if each in map(str.strip, text.split(",")))


def reference_runs(
    scenario: Scenario, inputs: Inputs, wanted: Collection[Reference]
) -> Mapping[str, Sequence[Scenario]]:
    """The scenarios that one is measured against, by what its results call them; of several the fastest counts.

    All have the scenario's detail, but no-offload keeps its iterations, from which a lower bound is computed.
    """
    found: dict[str, Sequence[Scenario]] = {}
    if "no-offload" in wanted or "lower-bound" in wanted:
        found["no_offload"] = [resident(scenario, inputs)]
    if "best-known" in wanted:
        found["best_known"] = [replace(scenario, policy=each, label=None) for each in know_all(inputs.model.layers)]
    if "regret" in wanted:
        for name, policy in _perfected(scenario.policy).items():
            found[name] = [replace(scenario, policy=policy, label=None)]
    return found


def know_all(layers: int) -> Sequence[str]:
    """The policies that know every demand to come, for a model of so many layers."""
    distances = sorted({min(distance, layers) for distance in DISTANCES})
    return [KNOWS_ALL, *(f"{PREDICTS_PERFECTLY},prefetch_distance={each}+{EVICTS_PERFECTLY}" for each in distances)]


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
