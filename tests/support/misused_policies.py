"""Policies that say what a policy may not say, each one thing, with the line that is printed for it.

The model has 4 layers of 6 experts.
"""

import numpy as np

from policies.base import Evictor, Policy, Prefetcher
from policies.evictors.recency import LeastRecentlyUsed
from policies.types import Likely, Nearest, Prefetch, Search

ASKS = (Search("speculate", 0, 1, 4, 1),)
NAN, INF = float("nan"), float("inf")


def says(*actions):
    """A hook that returns these, whatever it is told."""
    return lambda self, *given: list(actions)


def returns(answer):
    return lambda self, *given: answer


def fails(self, *given):
    return 1 // 0


def fails_later(self, *given):
    yield Prefetch(1, [0], [1.0])
    raise KeyError("no such key")


def gives_up(self, *given):
    raise SystemExit(3)


def without_end(self, *given):
    while True:
        yield Prefetch(1, [0], [1.0])


def writes_to(name):
    def hook(self, *given):
        getattr(given[-1], name)[...] = 0
        return ()

    return hook


def learns(answer):
    return lambda self, setup: setup.learned(lambda: answer)


def writes_to_learned(self, setup):
    setup.learned(lambda: {"table": np.zeros(2)})["table"][0] = 1


def spoils(self, *given):
    self.scores[7] = NAN


def scored_with(value):
    def touched(self, layer, experts, now_s):
        if layer == 2:
            self.scores[layer * self.experts + 5] = value

    return touched


def misshapen(self, setup):
    self.scores = np.zeros(3)


def scoreless(self, setup):
    self.experts = setup.model.experts


PLANS = {
    "a layer too many": (Prefetch(4, [0], [0.5]), "the layer of a Prefetch must be from 0 to 3, not 4"),
    "a layer before the first": (Prefetch(-1, [0], [0.5]), "the layer of a Prefetch must be from 0 to 3, not -1"),
    "a layer in words": (Prefetch("1", [0], [0.5]), "the layer of a Prefetch must be a whole number, not '1'"),
    "an expert too many": (Prefetch(0, [9], [0.5]), "an expert of a Prefetch of layer 0 must be from 0 to 5, not 9"),
    "an expert before the first": (
        Prefetch(0, [-1], [0.5]),
        "an expert of a Prefetch of layer 0 must be from 0 to 5, not -1",
    ),
    "half an expert": (
        Prefetch(2, [0.5], [0.5]),
        "an expert of a Prefetch of layer 2 must be a whole number, not 0.5",
    ),
    "an expert twice": (Prefetch(0, [1, 1], [0.5, 0.5]), "a Prefetch of layer 0 has expert 1 twice"),
    "experts that are no list": (Prefetch(0, 3, [0.5]), "experts of a Prefetch must be a list, not 3"),
    "a weight too few": (Prefetch(0, [0, 1], [0.5]), "a Prefetch of layer 0 has 2 experts and 1 weights"),
    "a weight that is not a number": (
        Prefetch(0, [0, 1], [1.0, NAN]),
        "a weight of a Prefetch of layer 0 must be finite and at least 0, not nan",
    ),
    "an infinite weight": (
        Prefetch(0, [0], [INF]),
        "a weight of a Prefetch of layer 0 must be finite and at least 0, not inf",
    ),
    "a negative weight": (
        Prefetch(3, [0], [-0.5]),
        "a weight of a Prefetch of layer 3 must be finite and at least 0, not -0.5",
    ),
    "a weight in words": (Prefetch(0, [0], ["1"]), "a weight of a Prefetch of layer 0 must be a number, not '1'"),
    "a belief of another shape": (
        Prefetch(0, [0], [0.5], np.full(5, 0.2)),
        "the belief of a Prefetch of layer 0 must have the shape (6,), not (5,)",
    ),
    "a belief that is not a number": (
        Prefetch(0, [0], [0.5], np.array([0, NAN, 0, 0, 0, 0])),
        "the belief of a Prefetch of layer 0 must be finite and at least 0, not nan at [1]",
    ),
    "a search without rows": (Search("match", -1, 0, 4, 1), "the rows of a Search must be at least 1, not 0"),
    "a search of nothing": (Search("match", -1, 1, 0, 1), "the dims of a Search must be at least 1, not 0"),
    "a search without entries": (Search("match", -1, 1, 1, -3), "the entries of a Search must be at least 1, not -3"),
    "a search of too much": (
        Search("match", -1, 1, 1, 2**63),
        "the entries of a Search must be from 1 to 9223372036854775807, not 9223372036854775808",
    ),
    "a search after the last layer": (
        Search("match", 4, 1, 4, 1),
        "the layer of a Search must be from -1 to 3, not 4",
    ),
    "an unknown kind of search": (
        Search("semantics", 0, 1, 4, 1),
        "a Search has the kind 'semantics'; did you mean 'semantic'?",
    ),
    "an update that should be answered": (
        Search("update", 0, 1, 4, 1),
        "a Search has the kind 'update', which only on_batch_end and an evictor may return",
    ),
    "something else": (3, "returned 3, which is neither a Prefetch nor a Search"),
}

HOOKS = {
    "on_batch returns nothing": (
        {"on_batch": returns(None)},
        "on_batch, iteration 0: returned None; it must return a list of Prefetch and Search, or () for nothing",
    ),
    "on_layer returns nothing": (
        {"on_layer": returns(None)},
        "on_layer, iteration 0, layer 0: returned None; "
        "it must return a list of Prefetch and Search, or () for nothing",
    ),
    "on_gate returns a plan alone": (
        {"on_gate": returns(Prefetch(1, [0], [1.0]))},
        "on_gate, iteration 0, layer 0: returned Prefetch(layer=1, experts=[0], weights=[1.0], belief=None); "
        "it must return a list of Prefetch and Search, or () for nothing",
    ),
    "on_gate returns a tuple": (
        {"on_gate": returns((1, [0], [1.0]))},
        "on_gate, iteration 0, layer 0: returned 1, which is neither a Prefetch nor a Search",
    ),
    "on_gate fails": (
        {"on_gate": fails},
        "on_gate, iteration 0, layer 0: ZeroDivisionError: integer division or modulo by zero",
    ),
    "on_gate gives up": ({"on_gate": gives_up}, "on_gate, iteration 0, layer 0: SystemExit: 3"),
    "on_gate never ends": (
        {"on_gate": without_end},
        "on_gate, iteration 0, layer 0: returned more than 100000 items",
    ),
    "a batch is written to": (
        {"on_batch": writes_to("request")},
        "on_batch, iteration 0: ValueError: assignment destination is read-only",
    ),
    "a gate is written to": (
        {"on_gate": writes_to("probs")},
        "on_gate, iteration 0, layer 0: ValueError: assignment destination is read-only",
    ),
    "on_layer fails after a plan": (
        {"on_layer": fails_later},
        "on_layer, iteration 0, layer 0: KeyError: 'no such key'",
    ),
    "it learns no arrays": (
        {"start": learns([1, 2])},
        "start: the result of learning must be a dict of named arrays, not [1, 2]",
    ),
    "what it learns has no name": (
        {"start": learns({3: np.zeros(2)})},
        "start: arrays in the result of learning must be named by strings, not 3",
    ),
    "it learns objects": (
        {"start": learns({"table": np.array([{}])})},
        "start: 'table' in the result of learning must be an array of numbers, not array([{}], dtype=object)",
    ),
    "it writes to what it learned": (
        {"start": writes_to_learned},
        "start: ValueError: assignment destination is read-only",
    ),
    "start fails": ({"start": fails}, "start: ZeroDivisionError: integer division or modulo by zero"),
    "on_request_start fails": (
        {"on_request_start": fails},
        "on_request_start, request 0: ZeroDivisionError: integer division or modulo by zero",
    ),
    "on_request_end fails": (
        {"on_request_end": fails},
        "on_request_end, request 0: ZeroDivisionError: integer division or modulo by zero",
    ),
    "searches are not answered": (
        {"on_batch": says(*ASKS)},
        "search, layer 0: Misused issues searches but does not answer them",
    ),
    "a search finds nothing": (
        {"on_batch": says(*ASKS), "search": returns(None)},
        "search, layer 0: returned None; the answer to a 'speculate' search must be a Likely",
    ),
    "a search finds something else": (
        {"on_batch": says(*ASKS), "search": returns(Nearest(np.array([0]), np.ones(1)))},
        "search, layer 0: returned Nearest(index=array([0]), score=array([1.])); "
        "the answer to a 'speculate' search must be a Likely",
    ),
    "what was found has another shape": (
        {"on_batch": says(*ASKS), "search": returns(Likely(np.array([1]), np.ones((1, 6))))},
        "search, layer 0: probs of the answer must have the shape (1, 1, 6), not (1, 6)",
    ),
    "what was found is of another layer": (
        {"on_batch": says(*ASKS), "search": returns(Likely(np.array([4]), np.ones((1, 1, 6))))},
        "search, layer 0: a layer of the answer must be from 0 to 3, not 4",
    ),
    "what was found is not a number": (
        {"on_batch": says(Search("match", -1, 1, 4, 1)), "search": returns(Nearest(np.array([0]), np.array([NAN])))},
        "search, layer -1: score of the answer must be finite, not nan at [0]",
    ),
    "on_found returns nothing": (
        {
            "on_batch": says(*ASKS),
            "search": returns(Likely(np.array([1]), np.ones((1, 1, 6)))),
            "on_found": returns(None),
        },
        "on_found, iteration 0, layer 0: returned None; it must return a list of Prefetch, or () for nothing",
    ),
    "on_found returns a search": (
        {
            "on_batch": says(*ASKS),
            "search": returns(Likely(np.array([1]), np.ones((1, 1, 6)))),
            "on_found": says(*ASKS),
        },
        "on_found, iteration 0, layer 0: returned "
        "Search(kind='speculate', layer=0, rows=1, dims=4, entries=1), which is not a Prefetch",
    ),
    "on_batch_end returns nothing": (
        {"on_batch_end": returns(None)},
        "on_batch_end, iteration 0: returned None; it must return a list of Search, or () for nothing",
    ),
    "on_batch_end plans": (
        {"on_batch_end": says(Prefetch(0, [0], [1.0]))},
        "on_batch_end, iteration 0: returned Prefetch(layer=0, experts=[0], weights=[1.0], belief=None), "
        "which is not a Search",
    ),
    "on_batch_end searches": (
        {"on_batch_end": says(*ASKS)},
        "on_batch_end, iteration 0: a Search has the kind 'speculate', but nothing answers it here; "
        "its kind must be 'update'",
    ),
}

EVICTORS = {
    "a score that is not a number": (
        {"touched": scored_with(NAN)},
        "touched, layer 2: the evictor's scores must be finite or -inf, not nan for expert 5 of layer 2",
    ),
    "an infinite score": (
        {"touched": scored_with(INF)},
        "touched, layer 2: the evictor's scores must be finite or -inf, not inf for expert 5 of layer 2",
    ),
    "scores spoilt as an iteration begins": (
        {"on_batch": spoils},
        "evictor's on_batch, iteration 0: the evictor's scores must be finite or -inf, not nan for expert 1 of layer 1",
    ),
    "scores of another shape": (
        {"start": misshapen},
        "evictor's start: the evictor's scores must have the shape (24,), not (3,)",
    ),
    "no scores": (
        {"start": scoreless},
        "evictor's start: the evictor's scores must be an array of floats, not None",
    ),
    "touched fails": (
        {"touched": fails},
        "touched, layer 0: ZeroDivisionError: integer division or modulo by zero",
    ),
    "the evictor's on_batch fails": (
        {"on_batch": fails},
        "evictor's on_batch, iteration 0: ZeroDivisionError: integer division or modulo by zero",
    ),
    "an evictor that plans": (
        {"on_batch": says(Prefetch(0, [0], [1.0]))},
        "evictor's on_batch, iteration 0: returned Prefetch(layer=0, experts=[0], weights=[1.0], belief=None), "
        "which is not a Search",
    ),
}

KEYS = {
    "a key that is not a number": (lambda *waiting: NAN, "copy_key, layer 1: the key of expert 3 is not a number"),
    "a key that is nothing": (
        lambda *waiting: None,
        "copy_key, layer 1: the key of expert 3 must be a number, not None",
    ),
    "a key that fails": (
        lambda *waiting: 1 // 0,
        "copy_key, layer 1: ZeroDivisionError: integer division or modulo by zero",
    ),
}

SPOILT = {
    "loaded": "loaded, layer 3: the evictor's scores must be finite or -inf, not nan for expert 1 of layer 1",
    "evicted": r"evicted, layer \d: the evictor's scores must be finite or -inf, not nan for expert 1 of layer 1",
    "believe": "believe, layer 3: the evictor's scores must be finite or -inf, not nan for expert 1 of layer 1",
    "foreseen": "foreseen, layer 3: the foreseen scores must be finite or -inf, not nan for expert",
}

LINES = {
    **{kind: f"on_batch, iteration 0: {line}" for kind, (_, line) in PLANS.items()},
    **{kind: line for kind, (_, line) in HOOKS.items()},
    **{kind: line for kind, (_, line) in EVICTORS.items()},
}


def misused(kind: str):
    """A policy that plans something lawful, but for one thing."""
    hooks = {"on_batch": says(PLANS[kind][0])} if kind in PLANS else HOOKS.get(kind, ({"on_batch": says()},))[0]
    prefetcher = type("Misused", (Prefetcher,), hooks)()
    evictor = type("MisusedEvictor", (Evictor,), EVICTORS[kind][0])() if kind in EVICTORS else LeastRecentlyUsed()
    return Policy(prefetcher=prefetcher, evictor=evictor)


def with_key(kind: str):
    """A policy that orders its copies by what is no order."""
    prefetcher = type("Lawful", (Prefetcher,), {"on_batch": says(Prefetch(1, [3], [1.0]))})()
    return Policy(prefetcher=prefetcher, evictor=LeastRecentlyUsed(), copy_key=KEYS[kind][0])


def spoilt(hook: str):
    """A policy whose evictor spoils its scores when it hears of a prefetch or a victim."""
    spoil = {"foreseen": lambda self, fetched, occupants: np.full(len(occupants), NAN)}.get(hook, spoils)
    own = {hook: spoil, "guards": hook == "foreseen"}
    if hook == "foreseen":
        own["touched"] = lambda self, layer, experts, now_s: self.scores.__setitem__(slice(18, 24), 1.0)
    prefetcher = type("Lawful", (Prefetcher,), {"on_batch": says(Prefetch(3, [0, 1, 2, 3, 4, 5], [1.0] * 6))})()
    return Policy(prefetcher=prefetcher, evictor=type("Spoiling", (Evictor,), own)())


class Priced(Prefetcher):
    """Asks for much, and answers a search after it has written into it, or not."""

    def __init__(self, kind):
        self.kind = kind

    def on_batch(self, batch):
        return [Search("match", -1, 1, 1000, 50_000)]

    def search(self, search):
        if self.kind == "cheap":
            search.entries = 1
        return Nearest(np.array([0]), np.ones(1))


def priced(kind: str = "fair"):
    """A policy that waits for its searches."""
    return Policy(prefetcher=Priced(kind), evictor=LeastRecentlyUsed(), blocking_prediction=True)
