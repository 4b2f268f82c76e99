"""Every policy that has a name, runs of it with its decision log, and what it is held to."""

import hashlib
import os
from dataclasses import replace
from functools import cache, partial
from itertools import cycle

import numpy as np
import pytest

from common.errors import UserError
from policies.base import Prefetcher
from policies.registry import EVICTORS, make_policy, policy_names
from policies.types import Nearest, Search
from sim.engine.batching import fixed_batches, gates_of, predicted
from tests.support.builders import KnownFuture, machine, random_requests, setup_of, shape, with_lookahead
from tests.support.in_memory import Setting, simulate

MODEL = shape(layers=4, experts=6, top_k=2)

VARIANTS = (
    "finemoe,prefetch_distance=1,capacity=9,learn=false",
    "finemoe,prefetch_distance=2,capacity=9,prefill_records=iteration,fill=redundancy",
    "finemoe,prefetch_distance=1,learn=false,prefill_records=iteration,reset_on_evict=true",
    "finemoe,prefetch_distance=1,threshold=demo,queue=all,reach=rest,count_misses=false",
    "hit-count,prefetch_distance=1,capacity=3",
    "map-t,prefetch_distance=2,learn=false",
    "moe-infinity,prefetch_distance=1,capacity=3,blocking_prefetch=false",
    "perfect-prefetch,prefetch_distance=4",
    "promoe,prefetch_distance=1,chunk_bytes=7,lookahead=false",
    "speculate,prefetch_distance=1,lookahead=false",
    "tests.support.learned_policy:learned",
)
OUTSIDE = tuple(os.environ.get("FINEMOE_POLICY", "").split())  # of somebody else, to be held to the same
ALONE = (*policy_names(), *VARIANTS, *OUTSIDE)
EVICTING = tuple(name for name in policy_names() if not make_policy(name).preloaded)
COMPOSED = tuple(f"{name}+{evictor}" for name in EVICTING for evictor in EVICTORS)
EVERY = ALONE + COMPOSED
SOME_COMPOSED = tuple(map("+".join, zip(EVICTING, cycle(EVICTORS))))  # each prefetcher once, each evictor twice or more
EVICTORS_ONCE = SOME_COMPOSED[4 : 4 + len(EVICTORS)]  # with prefetchers that do not know the future


@cache
def knows_the_future(spec):
    return "future" in make_policy(spec).requires


ORACLES = tuple(spec for spec in EVERY if knows_the_future(spec))
CAUSAL = tuple(spec for spec in EVERY if not knows_the_future(spec))
CAUSAL_ALONE = tuple(spec for spec in ALONE if not knows_the_future(spec))
IN_BLOCKS = tuple(spec for spec in ALONE if make_policy(spec).prefetcher.block)
LEARNING = ("finemoe", "hit-count", "map-t", "map-ts", "map-ts-delta", "moe-infinity", "moe-infinity-code")


def listens(spec):
    """Whether the prefetcher asks what iterations and requests were once they have ended."""
    kind = type(make_policy(spec).prefetcher)
    heard = kind.on_batch_end is not Prefetcher.on_batch_end or kind.on_request_end is not Prefetcher.on_request_end
    return heard and "learn=false" not in spec


def requests_of(seed, *decoded):
    """Requests of different lengths; each has a prefill of five tokens."""
    rng = np.random.default_rng(seed)
    return [
        with_lookahead(replace(recorded, request=number), 1, 2)
        for number, tokens in enumerate(decoded)
        for recorded in random_requests(MODEL, rng, requests=1, decoded=tokens, prefill_tokens=5, hidden=3)
    ]


HISTORY = requests_of(1, 6, 4, 5)
TEST = requests_of(2, 4, 5, 3, 4)
OTHERS = requests_of(3, 6, 4, 5, 3)


def run(spec, requests=TEST, *, history=HISTORY, gpus=2, experts=9, bytes_per_s=2e6, **setting):
    """A run with its decision log; only who asks for the future is told."""
    setting = Setting(
        model=MODEL, hardware=machine(gpus, bytes_per_s=bytes_per_s), cache_experts=experts, log=True, **setting
    )
    future = KnownFuture(MODEL, requests) if knows_the_future(spec) else None
    return simulate(spec, setting, requests, history=history, future=future)


def digest(rows):
    """Of a log as text, so that it is compared byte for byte."""
    return hashlib.sha256("\n".join(map(repr, rows)).encode()).hexdigest()


def remade(monkeypatch, change):
    """Let `simulate` change each policy before it runs."""

    def made(spec):
        policy = make_policy(spec)
        change(policy)
        return policy

    monkeypatch.setattr("sim.started_policy.make_policy", made)


# ---- requests that agree for a while ---------------------------------------------------------------------------------


def spliced(one, other, iteration, layer):
    """The request `one` until `layer` of `iteration` is gated; from that gate on, `other`.

    What is known of the iteration before its first layer (tokens, embeddings) is `one`'s. So is what the gates before
    said, lookahead included; `other` may be longer or shorter.
    """
    past, now, then = one.iteration < iteration, one.iteration == iteration, other.iteration > iteration

    def together(mine, others):
        return np.concatenate([mine[past | now], others[then]])

    def by_layer(mine, others):
        both = together(mine, others)
        both[np.count_nonzero(past) :][: np.count_nonzero(now), layer:] = others[other.iteration == iteration, layer:]
        return both

    plain = ("iteration", "position", "token", "embedding")
    layered = ("gate", "experts")
    return replace(
        one,
        **{name: together(getattr(one, name), getattr(other, name)) for name in plain},
        **{name: by_layer(getattr(one, name), getattr(other, name)) for name in layered},
        lookahead={ahead: by_layer(probs, other.lookahead[ahead]) for ahead, probs in one.lookahead.items()},
    )


def changed(number, iteration, layer):
    """The requests, but from a layer of an iteration of request `number` on another one, and none after it."""
    return [*TEST[:number], spliced(TEST[number], OTHERS[number], iteration, layer)]


def demand_at(batch_size, number, iteration, layer):
    """How many demands the run has before that layer of that iteration of the request."""
    steps = [step.batch for step in fixed_batches(TEST, batch_size)]
    first = next(batch.iteration for batch in steps if number in batch.request)
    return (first + iteration) * MODEL.layers + layer


def before_demand(rows, count):
    """The rows before the demand that follows `count` others."""
    return rows[: [place for place, row in enumerate(rows) if row.call == "demand"][count]]


@cache
def unchanged(spec, batch_size=1):
    return run(spec, batch_size=batch_size).log.rows


# ---- a prefetcher alone ----------------------------------------------------------------------------------------------


def started(spec, requests=TEST, history=HISTORY):
    prefetcher = make_policy(spec).prefetcher
    future = KnownFuture(MODEL, requests) if "future" in prefetcher.requires else None
    prefetcher.start(setup_of(MODEL, history, future))
    return prefetcher


def acts(prefetcher, steps):
    """All that a prefetcher does: its moment (iteration, last gated layer), what it is, and its numbers.

    Searches end at once, and what they found counts, not only what that leads to.
    """
    answer = []

    def note(batch, layer, actions):
        moment = batch.iteration, layer
        for action in actions:
            if isinstance(action, Search):
                found = prefetcher.search(action)
                ids, numbers = (found.index, found.score) if isinstance(found, Nearest) else (found.layers, found.probs)
                answer.append((moment, (action, ids.tolist()), numbers))
                note(batch, layer, prefetcher.on_found(batch, layer, action, found))
            else:
                belief = [] if action.belief is None else action.belief
                answer.append((moment, (action.layer, list(action.experts)), np.append(action.weights, belief)))

    for step in predicted(iter(steps), prefetcher):
        batch = step.batch
        for request in step.starting:
            prefetcher.on_request_start(request)
        note(batch, -1, prefetcher.on_batch(batch))
        for layer, gate in enumerate(gates_of(step)):
            note(batch, layer - 1, prefetcher.on_layer(batch, layer))
            note(batch, layer, prefetcher.on_gate(batch, gate))
        updates = prefetcher.on_batch_end(batch, step.maps, step.experts)
        answer += [((batch.iteration, MODEL.layers), update, np.zeros(0)) for update in updates]
        for request in step.ending:
            prefetcher.on_request_end(request)
    return answer


def same(one, other):
    """Whether the acts are the same; their numbers may differ in the last bits of float32, as those of blocks do."""
    return len(one) == len(other) and all(
        mine[:2] == others[:2] and mine[2].shape == others[2].shape and np.allclose(mine[2], others[2], 0, 1e-5)
        for mine, others in zip(one, other, strict=True)
    )


# ---- what a policy is told of requests -------------------------------------------------------------------------------


class Watch:
    """Holds the simulator to what it tells a policy of requests."""

    def __init__(self, policy):
        self.running = set()
        prefetcher = policy.prefetcher
        for hook in ("on_batch", "on_layer", "on_gate", "on_batch_end"):
            setattr(prefetcher, hook, partial(self.hears, getattr(prefetcher, hook)))
        for hook in ("on_request_start", "on_request_end"):
            setattr(prefetcher, hook, partial(getattr(self, hook), getattr(prefetcher, hook)))

    def hears(self, hook, batch, *given):
        assert set(batch.request.tolist()) <= self.running
        return hook(batch, *given)

    def on_request_start(self, hook, request):
        assert request not in self.running
        self.running.add(request)
        hook(request)

    def on_request_end(self, hook, request):
        self.running.remove(request)
        hook(request)


def refusal(spec: str) -> str:
    """The one line that refuses a policy."""
    with pytest.raises(UserError) as raised:
        make_policy(spec)
    assert "\n" not in str(raised.value)
    return str(raised.value)
