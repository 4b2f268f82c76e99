"""Reference runs, which other runs are compared with: ordinary scenarios that run only when a table needs them.

no-offload     every expert on its GPU; the same for every cache size
best-known     policies that know all future demands, of which the fastest counts: strong heuristics, not bounds
own-cache      the policy's own cache without prefetching: if the policy is slower, prefetching does not pay
lower-bound    a lower bound of the makespan with this cache (`sim.results.bounds`), computed from no-offload's run
regret         the policy with perfect prediction or with perfect eviction in place of its own

**Best known** is the run with the lowest mean TPOT (all of them if equal) among `clairvoyant` and perfect prefetch with
Belady's evictor at the distances `DISTANCES`. None of these is always the fastest. On one GPU with batches of one,
`clairvoyant` is faster by up to 26 % (gpt-oss-20b, half of the experts). On six GPUs with few slots, or in batches,
where the future is an estimate, perfect prefetch is faster by up to 13 %. More distances change the minimum by less
than 1 %. The three runs take about as long as that of `clairvoyant`.

**The own cache** has the policy's evictor and copies on demand. An evictor that reads the prefetcher's beliefs still
gets them (`Scenario.prefetch`), after the time of a search, but nothing waits for a prediction: only the prefetching
and its cost are left out. Policies with the same evictor share the run if it reads no beliefs.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

from common.errors import FieldError, UserError, nearest
from policies.base import Policy
from policies.cache.placement import least_slots
from policies.naming import inside, parts_of
from policies.registry import EVICTORS, NAMED, make_policy
from sim.inputs import Inputs
from sim.results.policy_comparison import RESIDENT
from sim.scenario import CacheSize, Detail, Scenario

Reference = Literal["no-offload", "best-known", "own-cache", "lower-bound", "regret"]
BRIEF_REFERENCES: tuple[Reference, ...] = ("own-cache",)
DEFAULT_REFERENCES: tuple[Reference, ...] = ("no-offload", "best-known", "own-cache")
EVERY_BOUND: tuple[Reference, ...] = (*DEFAULT_REFERENCES, "lower-bound")

KNOWS_ALL = "clairvoyant"
PREDICTS_PERFECTLY = "perfect-prefetch"
EVICTS_PERFECTLY = "belady"
DISTANCES = (3, 6, 12)  # in layers, of perfect prefetch


def references_named(text: str, known: tuple[Reference, ...] = get_args(Reference)) -> tuple[Reference, ...]:
    """The references in a text such as `no-offload,regret`, in the order of `known`; `none` stands for none."""
    if text.strip() == "none":
        return ()
    for name in map(str.strip, text.split(",")):
        if name == "none":
            raise FieldError("references", "none cannot be combined with other references")
        if name not in known:
            raise FieldError("references", f"unknown reference {name!r}; {nearest(name, known)}")
    return tuple(each for each in known if each in map(str.strip, text.split(",")))


def reference_runs(
    scenario: Scenario, inputs: Inputs, wanted: Collection[Reference]
) -> Mapping[str, Sequence[Scenario]]:
    """The reference scenarios of a scenario, by their name in results; of several, the fastest counts.

    All have the scenario's detail, but no-offload keeps its iterations, because lower bounds are computed from them.
    """
    found: dict[str, Sequence[Scenario]] = {}
    if "no-offload" in wanted or "lower-bound" in wanted:
        found["no_offload"] = [resident(scenario, inputs)]
    if "own-cache" in wanted and (own := own_cache(scenario)):
        found["own_cache"] = [own]
    if "best-known" in wanted:
        found["best_known"] = [with_policy(scenario, each) for each in know_all(inputs.model.layers)]
    if "regret" in wanted:
        for name, policy in _perfected(scenario.policy).items():
            found[name] = [with_policy(scenario, policy)]
    return found


def with_policy(scenario: Scenario, policy: str) -> Scenario:
    """The scenario with another policy and with prefetching."""
    return replace(scenario, policy=policy, prefetch=True, label=None)


def know_all(layers: int) -> Sequence[str]:
    """The policies that know all future demands, for a model with this many layers."""
    distances = sorted({min(distance, layers) for distance in DISTANCES})
    return [KNOWS_ALL, *(f"{PREDICTS_PERFECTLY},prefetch_distance={each}+{EVICTS_PERFECTLY}" for each in distances)]


def resident(scenario: Scenario, inputs: Inputs) -> Scenario:
    """The scenario with every expert on its GPU; it is the same for all cache sizes, which do not matter then."""
    detail: Detail = "iterations" if scenario.detail == "requests" else scenario.detail
    size = CacheSize(experts=least_slots(inputs.model, inputs.machine.gpus))
    return replace(with_policy(scenario, RESIDENT), cache=size, detail=detail)


def own_cache(scenario: Scenario) -> Scenario | None:
    """The scenario without prefetching; None for a policy that copies on demand anyway or keeps every expert."""
    policy = make_policy(scenario.policy)
    if policy.preloaded or not scenario.prefetch or not policy.prefetcher.overridden():
        return None
    evictor = _evictor(scenario.policy, policy)
    if evictor is None or policy.evictor.reads_beliefs or not policy.compute_on_arrival:
        return replace(scenario, prefetch=False, label=None)
    on_demand = evictor in NAMED and not make_policy(evictor).prefetcher.overridden()
    return with_policy(scenario, evictor if on_demand else f"lru+{evictor}")


def _perfected(spec: str) -> Mapping[str, str]:
    """A policy with perfect prediction, and with perfect eviction; nothing for one that knows the future anyway."""
    policy = make_policy(spec)
    if policy.preloaded or "future" in policy.requires:
        return {}
    found = {"belady": f"{parts_of(spec)[0]}+{EVICTS_PERFECTLY}"}
    if evictor := _evictor(spec, policy):
        found["perfect_prefetch"] = f"{PREDICTS_PERFECTLY}{_distance(policy)}+{evictor}"
    return {name: each for name, each in found.items() if _can_be_made(each)}


def _evictor(spec: str, policy: Policy) -> str | None:
    """The text that makes the policy's evictor with its settings; None if no name does."""
    _, *evictors = parts_of(spec)
    if evictors:
        return evictors[0]
    for name, place in EVICTORS.items():
        made = inside(place)
        if type(policy.evictor) is made and vars(policy.evictor) == vars(made()):
            return name
    return None


def _distance(policy: Policy) -> str:
    """The setting that gives perfect prediction the policy's own prefetch distance, if it has one."""
    distance = getattr(policy.prefetcher, "prefetch_distance", None)
    return f",prefetch_distance={distance}" if isinstance(distance, int) else ""


def _can_be_made(spec: str) -> bool:
    try:
        make_policy(spec)
    except UserError:
        return False
    return True
