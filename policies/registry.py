"""The tables of named policies and evictors, and how a name becomes a policy.

A new policy is one class in one file and one line in `NAMED`; a new evictor is one line in `EVICTORS`. Outside packages
register their policies through the entry point group `finemoe_lab.policies`. The form is always `module:callable`, and
the callable returns a `Policy` or an `Evictor`.
"""

from collections.abc import Callable, Iterable
from copy import copy
from importlib.metadata import entry_points

from common.errors import UserError, one_line, unknown
from policies.base import Evictor, Policy, Prefetcher
from policies.naming import inside, outside, parts_of
from policies.policy_settings import called
from policies.validity import check_policy

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
    "mixtral-offloading-released": "policies.systems.mixtral_offloading:mixtral_offloading_released",
    "moe-infinity": "policies.systems.moe_infinity:moe_infinity",
    "moe-infinity-code": "policies.systems.moe_infinity:moe_infinity_code",
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
    "lru-by-layer": "policies.evictors.recency_by_layer:LeastRecentlyUsedByLayer",
    "sieve": "policies.evictors.sieve:Sieve",
}


PLUG_INS = "finemoe_lab.policies"


def policy_names() -> list[str]:
    """All names that `make_policy` knows, in alphabetical order."""
    return sorted({*NAMED, *entry_points(group=PLUG_INS).names})


def make_policy(spec: str) -> Policy:
    """A fresh policy from `NAME` or `NAME,setting=value,…`, for example `finemoe,prefetch_distance=6`.

    `+EVICTOR` replaces the policy's own evictor: `finemoe,prefetch_distance=6+lhd,classes=8`. A name with a colon,
    `module:callable`, is from outside, on either side of the `+`. An evictor from outside on its own makes a policy
    that copies on demand. An unknown name or setting is a `UserError` that offers the nearest.
    """
    part, *others = parts_of(spec)
    name = part.partition(",")[0]
    made = make(part)
    policy = made if isinstance(made, Policy) else Policy(prefetcher=Prefetcher(), evictor=made)
    check_policy(policy, spec)
    if not others:
        return policy
    if len(others) > 1:
        raise UserError(f"policy {spec!r}: a policy has one evictor, not {len(others)}")
    if policy.preloaded:
        raise UserError(f"policy {spec!r}: {name} keeps every expert, so there is nothing to evict")
    composed = copy(policy)  # not a new one: the constructor of a subclass may take other arguments than the fields
    evictor = make_evictor(others[0])
    object.__setattr__(composed, "evictor", evictor)
    # Only if the evictor guards does one refused prefetch mean that less urgent ones can wait.
    object.__setattr__(composed, "refused_blocks", policy.refused_blocks and evictor.guards)
    check_policy(composed, spec)
    return composed


def make(part: str) -> Policy | Evictor:
    """The policy, or the evictor from outside, that `NAME,setting=value,…` names before any `+`."""
    name = part.partition(",")[0]
    factory = policy_factory(name)
    if isinstance(factory, type) and issubclass(factory, Prefetcher):
        raise UserError(f"policy {name}: is a Prefetcher; name a function that returns Policy(prefetcher=…, evictor=…)")
    made: object = called(factory, "policy", part)
    if not isinstance(made, Policy | Evictor):
        raise UserError(f"policy {name}: must return a Policy or an Evictor, not {type(made).__name__}")
    return made


def make_evictor(part: str) -> Evictor:
    """The evictor that `NAME,setting=value,…` names after a `+`."""
    name = part.partition(",")[0]
    made: object = called(evictor_factory(name), "evictor", part)
    if not isinstance(made, Evictor):
        raise UserError(f"evictor {name}: must return an Evictor, not {type(made).__name__}")
    return made


def policy_factory(name: str) -> Callable[..., object]:
    """The factory of a policy by name or `module:callable`; one from outside may make an evictor."""
    if name in NAMED:
        return inside(NAMED[name])
    if name in EVICTORS:
        raise UserError(f"policy {name}: is an evictor; use lru+{name} to copy on demand and evict by it")
    return _outside_factory(name, "policy", NAMED)


def evictor_factory(name: str) -> Callable[..., object]:
    """The factory of an evictor by name or `module:callable`; one from outside may make something else."""
    if name in EVICTORS:
        return inside(EVICTORS[name])
    if name in NAMED:
        raise UserError(f"evictor {name}: is a policy; evictors are {', '.join(sorted(EVICTORS))}")
    return _outside_factory(name, "evictor", EVICTORS)


def _outside_factory(name: str, kind: str, own: Iterable[str]) -> Callable[..., object]:
    """The factory of a policy or evictor from outside; an unknown name is an error that offers the nearest."""
    if ":" in name:
        return outside(name, kind, lambda value: _could_make(kind, value))
    plug_ins = entry_points(group=PLUG_INS)
    if name not in plug_ins.names:
        raise unknown(kind, name, sorted({*own, *plug_ins.names}))
    try:
        loaded: object = plug_ins[name].load()
    except (Exception, SystemExit) as error:  # whatever a package from outside may raise
        raise UserError(f"{kind} {name}: its package cannot be loaded: {one_line(error)}") from error
    if not callable(loaded):
        raise UserError(f"{kind} {name}: its entry point must be a class or function, not {type(loaded).__name__}")
    return loaded


def _could_make(kind: str, value: object) -> bool:
    """Whether a value can be the factory of a policy or evictor (the `kind`): a function, or a class of them."""
    if not isinstance(value, type):
        return callable(value)
    return issubclass(value, Evictor) or (kind == "policy" and issubclass(value, Policy))


def is_own(spec: str) -> bool:
    """Whether all parts of a policy's name belong to this project."""
    return all(part.partition(",")[0] in NAMED.keys() | EVICTORS.keys() for part in parts_of(spec))
