"""The tables of named policies and evictors, and how a name becomes a policy.

A new policy is one class in one file and one line in `NAMED`, a new evictor one line in `EVICTORS`. Packages outside
register their policies through the entry point group `finemoe_lab.policies`. The form is always `module:callable`, and
the callable returns a `Policy`, or an `Evictor`.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points

from common.errors import UserError, one_line, unknown
from policies.base import Evictor, Policy
from policies.naming import called, inside, outside, parts_of

NAMED = {
    "belady": "policies.systems.on_demand:belady",
    "clairvoyant": "policies.systems.clairvoyant:clairvoyant",
    "deepspeed": "policies.systems.deepspeed:deepspeed",
    "finemoe": "policies.systems.finemoe:finemoe",
    "hit-count": "policies.systems.trackers:hit_count",
    "lfu": "policies.systems.on_demand:lfu",
    "lru": "policies.systems.on_demand:lru",
    "map-t": "policies.systems.trackers:map_t",
    "map-ts": "policies.systems.trackers:map_ts",
    "map-ts-delta": "policies.systems.trackers:map_ts_delta",
    "mixtral-offloading": "policies.systems.mixtral_offloading:mixtral_offloading",
    "moe-infinity": "policies.systems.moe_infinity:moe_infinity",
    "no-offload": "policies.systems.no_offload:no_offload",
    "oracle": "policies.systems.on_demand:belady",
    "perfect-prefetch": "policies.systems.perfect_prefetch:perfect_prefetch",
    "promoe": "policies.systems.promoe:promoe",
    "speculate": "policies.systems.trackers:speculate",
}


EVICTORS = {
    "belady": "policies.evictors.belady:Belady",
    "finemoe": "policies.evictors.belief_frequency:BeliefAndFrequency",
    "lecar": "policies.evictors.lecar:LeCaR",
    "lfu": "policies.evictors.frequency:LeastFrequentlyUsed",
    "lhd": "policies.evictors.lhd:LeastHitDensity",
    "lru": "policies.evictors.recency:LeastRecentlyUsed",
    "sieve": "policies.evictors.sieve:Sieve",
}


PLUG_INS = "finemoe_lab.policies"


def policy_names() -> list[str]:
    """All names that `make_policy` knows, in alphabetical order."""
    return sorted({*NAMED, *entry_points(group=PLUG_INS).names})


def make_policy(spec: str) -> Policy:
    """A fresh policy from `NAME` or `NAME,setting=value,…`, for example `finemoe,prefetch_distance=6`.

    With `+EVICTOR` behind it, another evictor takes the place of its own: `finemoe,prefetch_distance=6+lhd,classes=8`.
    A name with a colon, `module:callable`, is a policy from outside. An unknown name or setting is a `UserError` that
    offers the nearest.
    """
    part, *others = parts_of(spec)
    name = part.partition(",")[0]
    policy = called(policy_factory(name), "policy", part)
    if not isinstance(policy, Policy):
        raise UserError(f"policy {name}: it returns a {type(policy).__name__}, not a Policy")
    if not others:
        return policy
    if len(others) > 1:
        raise UserError(f"policy {spec!r}: a policy has one evictor, not {len(others)}")
    if policy.preloaded:
        raise UserError(f"policy {spec!r}: {name} keeps every expert, so there is nothing to evict")
    evictor: Evictor = called(evictor_factory(others[0].partition(",")[0]), "evictor", others[0])
    return replace(policy, evictor=evictor)


def policy_factory(name: str) -> Callable[..., object]:
    """What makes the policy of a name, or of `module:callable`."""
    if ":" in name:
        return outside(name)
    if name in NAMED:
        return inside(NAMED[name])
    plug_ins = entry_points(group=PLUG_INS)
    if name not in plug_ins.names:
        raise unknown("policy", name, policy_names())
    try:
        loaded: Callable[..., object] = plug_ins[name].load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"policy {name}: its package cannot be loaded: {one_line(error)}") from error
    return loaded


def evictor_factory(name: str) -> Callable[..., Evictor]:
    """What makes the evictor of a name."""
    if name not in EVICTORS:
        raise unknown("evictor", name, EVICTORS)
    return inside(EVICTORS[name])
