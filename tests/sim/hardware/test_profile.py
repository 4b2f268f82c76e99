"""A measured profile: what its points say, where they end, and runs on it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from policies.types import Search
from sim.engine.batching import fixed_batches
from sim.hardware.effects import Effects
from sim.hardware.parts import Contention, Framework, Host
from sim.hardware.profile import MeasuredCost, Profile, Table
from tests.support.builders import machine, random_requests, request_of, shape
from tests.support.in_memory import Setting, simulate
from tests.support.profiles import flat_profile

MODEL = shape()


def measured(**changes: Any) -> Profile:
    return flat_profile(MODEL, name="demo", **changes)


# ---- between and at the points ---------------------------------------------------------------------------------------


def test_a_measured_point_is_returned_exactly() -> None:
    seconds = (0.1, 0.7, 0.3)
    cost = measured(expert=Table(sizes=(1, 8, 64), seconds=seconds)).cost(MODEL)
    assert tuple(map(cost.expert_s, (1, 8, 64))) == seconds


def test_between_two_points_times_are_linear() -> None:
    """From (2, 3 s) to (6, 11 s) it is 2 s a token; then it stays."""
    table = Table(sizes=(2, 6, 10), seconds=(3.0, 11.0, 11.0))
    cost = measured(expert=table, dense=table, head=table, copy=table).cost(MODEL)
    for asked, expected in ((3, 5.0), (4, 7.0), (5, 9.0), (7, 11.0)):
        assert cost.expert_s(asked) == expected
        assert cost.dense_s(asked, 50, 0) == expected
        assert cost.head_s(asked) == expected
        assert cost.copy_s(asked) == expected


@given(st.dictionaries(st.integers(1, 10_000), st.floats(1e-9, 1e3), min_size=1), st.data())
def test_interpolation_is_numpys(points: dict[int, float], data: st.DataObject) -> None:
    sizes = sorted(points)
    seconds = [points[size] for size in sizes]
    asked = data.draw(st.integers(sizes[0], sizes[-1]))
    found = Table(sizes=tuple(sizes), seconds=tuple(seconds)).at(asked)
    assert found == pytest.approx(np.interp(asked, sizes, seconds), rel=1e-9)


def test_attention_adds_the_time_of_each_attended_position() -> None:
    cost = measured(dense_s_per_attended=0.25, most_attended=12).cost(MODEL)
    assert cost.dense_s(3, 99, 12) == 5.0 + 12 * 0.25
    assert cost.dense_s(3, 99, 0) == 5.0


def test_driving_the_offloading_takes_its_time_and_devices_of_one_processor_exchange_nothing() -> None:
    cost = measured(driving_s=0.5).cost(MODEL)
    assert (cost.driving_s, cost.exchange_s(7)) == (0.5, 0.0)


@pytest.mark.parametrize("rows", [1, 7])
def test_a_search_costs_what_the_same_rates_cost_on_a_preset(rows: int) -> None:
    hardware = machine()
    rates = {f"search_{key}": getattr(hardware.search, key) for key in ("overhead_s", "bytes_per_s", "flops_per_s")}
    search = Search(kind="semantic", layer=-1, rows=rows, dims=16, entries=1000)
    assert measured(**rates).cost(MODEL).search_s(search) == hardware.cost(MODEL).search_s(search)


def test_an_experts_time_is_looked_up_once() -> None:
    cost = measured().cost(MODEL)
    assert [cost.expert_s(3) for _ in range(5)] == [4.0] * 5
    assert (cost.expert_s.cache_info().hits, cost.expert_s.cache_info().misses) == (4, 1)


# ---- beyond the points -----------------------------------------------------------------------------------------------

NARROW = Table(sizes=(2, 64), seconds=(1.0, 2.0))


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda cost: cost.expert_s(80), "expert time was measured for 2 … 64 tokens, but 80 are needed"),
        (lambda cost: cost.expert_s(1), "expert time was measured for 2 … 64 tokens, but 1 are needed"),
        (lambda cost: cost.dense_s(65, 0, 0), "dense time was measured for 2 … 64 tokens, but 65 are needed"),
        (
            lambda cost: cost.dense_s(2, 0, 51),
            "attention time was measured for 0 … 50 attended positions, but 51 are needed",
        ),
        (lambda cost: cost.head_s(1), "head time was measured for 2 … 64 rows, but 1 are needed"),
        (lambda cost: cost.copy_s(65), "copy time was measured for 2 … 64 bytes, but 65 are needed"),
    ],
)
def test_sizes_outside_the_measured_range_are_refused(ask: Any, said: str) -> None:
    cost = measured(expert=NARROW, dense=NARROW, head=NARROW, copy=NARROW, most_attended=50).cost(MODEL)
    with pytest.raises(UserError) as error:
        ask(cost)
    assert str(error.value) == f"profile demo: {said}; calibrate again with more"


def test_a_single_point_is_a_range_of_its_own() -> None:
    cost = measured(copy=Table(sizes=(24,), seconds=(3.0,))).cost(MODEL)
    assert cost.copy_s(24) == 3.0
    for other in (23, 25):
        with pytest.raises(UserError, match=f"copy time was measured for 24 bytes, but {other} are needed"):
            cost.copy_s(other)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("layers", 3), ("experts", 5), ("top_k", 1), ("hidden", 4), ("expert_ffn", 3), ("shared_ffn", 1)),
        *(("attention_heads", 2), ("kv_heads", 2), ("head_dim", 3), ("vocab", 11), ("weight_bytes", 4.0)),
    ],
)
def test_another_model_is_refused_by_the_size_that_differs(field: str, value: Any) -> None:
    other = replace(MODEL, name="other", **{field: value})
    with pytest.raises(UserError) as error:
        measured().cost(other)
    said = f"measured for hand-made with {field} {getattr(MODEL, field)}, but other has {field} {value}"
    assert str(error.value) == f"profile demo: it was {said}"


def test_the_same_sizes_under_another_name_are_the_same_model() -> None:
    assert isinstance(measured().cost(replace(MODEL, name="other")), MeasuredCost)


def test_measured_contention_is_in_the_costs() -> None:
    host, framework = Host(memory_bytes_per_s=3e9), Framework(layer_s=0.1, expert_s=0.2)
    contention = Contention(compute_slowdown=1.5, copy_slowdown=1.25)
    profile = measured(copy_latency_s=2.0, host=host, framework=framework, contention=contention)
    cost = profile.cost(MODEL)
    assert (cost.copy_s(24), cost.copy_latency_s(24)) == (10.0, 2.0)
    assert cost.effects == Effects(
        host_bytes_per_s=3e9, layer_host_s=0.1, expert_host_s=0.2, compute_slowdown=1.5, copy_slowdown=1.25
    )


# ---- a run on it -----------------------------------------------------------------------------------------------------


def test_a_flat_profile_gives_a_makespan_worked_out_by_hand() -> None:
    """Two layers, one token, one device with a slot for each of four experts; dense 5, expert 4, copy 10, driving 1.

    First token, cold: 5 gate, copies until 15 and 25, so experts end at 29, driving until 30; the second layer
    likewise takes 30, the head 2: 62. Second token, the same experts: (5 + 4 + 4 + 1) · 2 + 2 = 30.
    """
    request = request_of([[[0, 1], [2, 3]]] * 2, MODEL)
    run = simulate("lru", Setting(model=MODEL, hardware=measured(), cache_experts=4), [request])
    assert run.makespan_s == 92.0
    assert run.iterations["end_s"].tolist() == [62.0, 92.0]
    assert (run.counts.hits, run.counts.misses) == (4, 4)
    assert run.simulated


@pytest.mark.parametrize("policy", ["lru", "finemoe,prefetch_distance=1", "no-offload"])
@pytest.mark.parametrize("gpus", [1, 2])
def test_points_taken_from_a_roofline_give_the_rooflines_run(policy: str, gpus: int) -> None:
    """Arithmetic outweighs memory, so that attention grows with the attended positions by a constant each."""
    model = shape(3, 6, hidden=8)
    hardware = machine(gpus, bytes_per_s=2e6)
    hardware = replace(hardware, gpu=replace(hardware.gpu, flops_per_s=1e6, memory_bytes_per_s=1e15))
    rng = np.random.default_rng(3)
    requests = random_requests(model, rng, requests=4, decoded=8, prefill_tokens=5, hidden=3)
    steps = list(fixed_batches(requests, 2))
    cost = replace(hardware, gpus=1).cost(model)

    def sampled(answer: Any, sizes: set[int]) -> Table:
        return Table(sizes=tuple(sorted(sizes)), seconds=tuple(answer(size) for size in sorted(sizes)))

    tokens = {len(step.batch.token) for step in steps}
    profile = Profile(
        name="sampled",
        gpus=gpus,
        model=model,
        expert=sampled(cost.expert_s, set(range(1, max(tokens) + 1))),
        dense=sampled(lambda count: cost.dense_s(count, 0, 0), tokens),
        dense_s_per_attended=4 * model.attention_heads * model.head_dim / 1e6,
        most_attended=max(step.attended for step in steps),
        head=sampled(cost.head_s, {1, 2}),
        driving_s=0.0,
        copy_latency_s=cost.copy_latency_s(model.expert_bytes),
        copy=sampled(cost.copy_s, {model.expert_bytes}),
        search_overhead_s=hardware.search.overhead_s,
        search_bytes_per_s=hardware.search.bytes_per_s,
        search_flops_per_s=hardware.search.flops_per_s,
    )
    free_peers = replace(hardware, peer_link=replace(hardware.peer_link, latency_s=0.0, bytes_per_s=float("inf")))
    runs = [
        simulate(
            policy,
            Setting(model=model, hardware=chosen, cache_experts=9, batch_size=2),
            requests[2:],
            history=requests[:2],
        )
        for chosen in (profile, free_peers)
    ]
    assert runs[0].counts == runs[1].counts
    assert runs[0].makespan_s == pytest.approx(runs[1].makespan_s, rel=1e-12)
    for column in ("start_s", "end_s", "wait_s", "copied_bytes"):
        np.testing.assert_allclose(runs[0].iterations[column], runs[1].iterations[column], rtol=1e-9, atol=1e-15)


def test_a_run_that_needs_more_than_was_measured_is_refused() -> None:
    request = request_of([[[0, 1], [2, 3]]] * 3, MODEL, prefill_tokens=3)
    profile = measured(dense=Table(sizes=(1, 2), seconds=(1.0, 2.0)))
    with pytest.raises(UserError, match="dense time was measured for 1 … 2 tokens, but 3 are needed"):
        simulate("lru", Setting(model=MODEL, hardware=profile, cache_experts=4), [request])
