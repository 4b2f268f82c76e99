"""The decision log: what each call on the cache leaves in it."""

from typing import get_args, get_type_hints

import numpy as np
import pytest

from policies.cache.decision_log import CallName, DecisionLog, LoggedCall
from policies.cache.observed_cache import ObservedCache
from policies.evictors.recency import LeastRecentlyUsed
from policies.types import Batch, Prefetch
from tests.support.builders import setup_of, shape
from tests.support.policy_helpers import ALONE, unchanged

MODEL = shape(layers=2, experts=4, top_k=2)
HALF = MODEL.expert_bytes // 2


def batch(iteration, *requests):
    ids, each = np.array(requests), np.arange(len(requests))
    return Batch(iteration, ids, row=each, prefill=each > 0, token=each, embedding=None)


def every_call():
    """The log of one slot on one GPU, which a prefetch reaches in two chunks, given numpy's numbers."""
    evictor, log = LeastRecentlyUsed(), DecisionLog()
    evictor.start(setup_of(MODEL))
    cache = ObservedCache(MODEL, evictor, slots=[1], chunk_bytes=HALF, observers=[log])
    device = cache.devices[0]
    cache.begin_iteration(batch(7, 30, 31), np.float64(1))
    cache.plan(Prefetch(1, np.array([2]), np.array([0.1], np.float32)), np.float64(1))
    prefetch = device.next_copy(2.0)
    cache.demand(1, [2], 3.0)
    device.copied(prefetch, 4.0)
    device.copied(device.next_copy(4.0), 5.0)
    cache.release(1, [2], 6.0, 5.0)
    cache.begin_iteration(batch(8, 31), 7.0)
    cache.demand(1, np.array([2]), 8.0)
    cache.release(1, [2], 9.0, 9.0)
    cache.demand(0, [0, 1], 10.0)
    device.copied(device.next_copy(10.0), 12.0)
    assert device.next_copy(12.0) is None
    return log.rows


def test_every_call_and_its_answer_is_a_row():
    late = {"gpu": 0, "slot": 0, "bytes": HALF, "layer": 1, "expert": 2}
    missed = {"gpu": 0, "slot": 0, "bytes": 2 * HALF, "layer": 0, "expert": 0, "demanded": True}
    assert every_call() == [
        LoggedCall(1.0, "begin_iteration", 7, requests=(30, 31)),
        LoggedCall(1.0, "plan", 7, layer=1, experts=(2,), weights=(float(np.float32(0.1)),)),
        LoggedCall(2.0, "next_copy", 7, **late, chunk=0),
        LoggedCall(3.0, "demand", 7, layer=1, experts=(2,), late=(2,), waves=1),
        LoggedCall(4.0, "copied", 7, **late, chunk=0, demanded=True),
        LoggedCall(4.0, "next_copy", 7, **late, chunk=1, demanded=True),
        LoggedCall(5.0, "copied", 7, **late, chunk=1, demanded=True, complete=True),
        LoggedCall(6.0, "release", 7, layer=1, experts=(2,)),
        LoggedCall(7.0, "begin_iteration", 8, requests=(31,)),
        LoggedCall(8.0, "demand", 8, layer=1, experts=(2,), hits=(2,), waves=1),
        LoggedCall(9.0, "release", 8, layer=1, experts=(2,)),
        LoggedCall(10.0, "demand", 8, layer=0, experts=(0, 1), misses=(0, 1), waves=2),
        LoggedCall(10.0, "next_copy", 8, **missed, chunk=0, victim_layer=1, victim_expert=2),
        LoggedCall(12.0, "copied", 8, **missed, chunk=0, complete=True),
        LoggedCall(12.0, "next_copy", 8, gpu=0),  # expert 1 waits for the slot of expert 0
    ]
    assert {row.call for row in every_call()} == set(get_args(CallName))


def unlike_declared(rows):
    """Names of the fields that hold something else than the plain Python values that `LoggedCall` declares."""
    hints = get_type_hints(LoggedCall)
    return {
        name
        for row in rows
        for name, value in zip(row._fields, row, strict=True)
        if name != "call"
        if (
            {type(value)} != {hints[name]}
            if type(value) is not tuple
            else not {type(each) for each in value} <= {get_args(hints[name])[0]}
        )
    }


def test_rows_have_plain_values_even_if_calls_pass_numpy_ones():
    assert unlike_declared(every_call()) == set()
    assert unlike_declared([LoggedCall(np.float64(1), "plan", 0, weights=(np.float64(1),))]) == {"time_s", "weights"}


@pytest.mark.parametrize("spec", ALONE)
def test_every_policys_log_contains_plain_values(spec):
    assert unlike_declared(unchanged(spec)) == set()


def test_a_release_announced_in_advance_is_sorted_to_where_it_takes_effect():
    log = DecisionLog()
    log.rows = [LoggedCall(5.0, "release", 0), LoggedCall(4.0, "copied", 0), LoggedCall(5.0, "demand", 0)]
    assert [row.call for row in log.in_time()] == ["copied", "release", "demand"]
