"""Experts of other sizes in other layers, as under mixed quantisation: copies and traffic count each its own."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from policies.registry import policy_names
from sim.inputs import with_sizes_of
from tests.support.builders import KnownFuture, machine, random_requests, request_of, shape, with_lookahead
from tests.support.in_memory import Setting, lower_bound_s, simulate
from tests.support.slow_cases import slow_but, some_policies
from traces.published_models import published

SIZES = (100, 1000, 400)
MODEL = replace(shape(3, 6, top_k=1), expert_bytes_by_layer=SIZES)


def test_a_missed_expert_takes_the_time_of_its_own_bytes() -> None:
    """The first token copies an expert of each layer, one after the other; each later token that of one layer."""
    tokens = [[[0], [0], [0]], [[1], [0], [0]], [[1], [1], [0]], [[1], [1], [1]], [[1], [1], [1]]]
    requests = [request_of(tokens, MODEL)]
    hardware = machine(1, bytes_per_s=1e6)
    setting = Setting(model=MODEL, hardware=hardware, cache_experts=9)
    run, resident = (simulate(policy, setting, requests) for policy in ("lru", "no-offload"))
    took, alone = ((each.iterations["end_s"] - each.iterations["start_s"]).to_numpy() for each in (run, resident))
    copy_s = hardware.cost(MODEL).copy_s
    assert took - alone == pytest.approx([sum(map(copy_s, SIZES)), *map(copy_s, SIZES), 0.0], abs=1e-12)
    assert run.iterations["copied_bytes"].tolist() == [sum(SIZES), *SIZES, 0]
    assert run.counts.bytes == 2 * sum(SIZES)


def test_sizes_of_another_model_are_equal() -> None:
    traced = replace(published("gpt-oss-20b"), name="quantised", expert_bytes_by_layer=tuple(range(1, 25)))
    assert with_sizes_of(traced, None).layer_expert_bytes == tuple(range(1, 25))
    assert with_sizes_of(traced, "gpt-oss-20b") == published("gpt-oss-20b")
    fewer = replace(traced, layers=2, expert_bytes_by_layer=(1, 2))
    assert with_sizes_of(fewer, "gpt-oss-20b").layer_expert_bytes == (published("gpt-oss-20b").expert_bytes,) * 2


MIXED = replace(shape(4, 6), expert_bytes_by_layer=(300, 2000, 50, 700))
DRAWN = random_requests(MIXED, np.random.default_rng(3), requests=6, decoded=10, prefill_tokens=4, hidden=3)
HISTORY, TESTED = ([with_lookahead(one, 1) for one in some] for some in (DRAWN[:2], DRAWN[2:]))


def on(gpus: int) -> Setting:
    return Setting(model=MIXED, hardware=machine(gpus, bytes_per_s=1e6), cache_experts=12, check=True)


@cache
def without_copies_and_bound_s(gpus: int) -> tuple[float, float]:
    """The makespan if every expert is there from the beginning, and the bound."""
    resident = simulate("no-offload", on(gpus), TESTED)
    return resident.makespan_s, lower_bound_s(on(gpus), TESTED, resident)


@pytest.mark.parametrize("gpus", slow_but([1, 2], 2))
@pytest.mark.parametrize("policy", some_policies([name for name in policy_names() if name != "no-offload"]))
def test_no_policy_passes_the_bound_and_the_link_is_busy_for_what_it_moves(policy: str, gpus: int) -> None:
    run = simulate(policy, on(gpus), TESTED, history=HISTORY, future=KnownFuture(MIXED, TESTED))
    resident_s, bound_s = without_copies_and_bound_s(gpus)
    assert resident_s < bound_s <= run.makespan_s
    assert run.counts.bytes / 1e6 / gpus < run.makespan_s
