"""Simulated testbeds against closed forms: bytes over rate, and the framework's time in every layer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.hardware.machine_files import machine_named
from sim.inputs import resolve
from sim.paper.testbed.testbed_grid import FULL, KICK_THE_TIRES, QUICK, PossibleTestbed
from sim.scenario import CacheSize, Scenario
from sim.simulation import simulate
from tests.support.trace_helpers import small_shape, small_trace

CACHE = CacheSize(gb=6.0)  # 17 of the 256 experts of Mixtral-8x7B


@pytest.fixture(scope="module")
def trace(tmp_path_factory) -> Path:
    """Requests over all 32 layers of Mixtral-8x7B, routed at random."""
    folder = tmp_path_factory.mktemp("routing")
    return small_trace(folder / "random.trace", shape=small_shape(layers=32, experts=8), lookahead=())


def tpot_s(trace: Path, policy: str, testbed: PossibleTestbed) -> float:
    scenario = Scenario(trace, policy=policy, sizes="mixtral-8x7b", machine=testbed.machine, cache=CACHE, requests=1)
    return float(simulate(scenario, quiet=True).summary["tpot_s_mean"])


def parts_s(trace: Path, testbed: PossibleTestbed) -> Iterator[float]:
    """Seconds of an expert's copy, of an expert on one token, and of the rest of a token without the framework."""
    scenario = Scenario(trace, sizes="mixtral-8x7b", machine=testbed.machine, cache=CACHE, requests=1)
    model = resolve(scenario).model
    cost = machine_named(testbed.machine).cost(model)
    yield model.expert_bytes / (testbed.link_gb_per_s * 1e9)
    yield cost.expert_s(1)
    yield model.layers * (cost.dense_s(1, 6, 6) + cost.exchange_s(1)) + cost.head_s(1)


def machine_with(link: float, layer_ms: float, loading: str) -> PossibleTestbed:
    return PossibleTestbed(link_gb_per_s=link, layer_ms=layer_ms, loading=loading)  # type: ignore[arg-type]


@pytest.mark.parametrize(("loading", "copies"), [("parallel", 2), ("serial", 8)])
@pytest.mark.parametrize(("link", "layer_ms"), [(32.0, 0.0), (8.0, 4.0)])
def test_deepspeed_copies_whole_layers_and_waits_for_the_framework(trace, loading, copies, link, layer_ms):
    """8 experts per layer over 6 links: two links copy two each, or all come one by one. Two layers may be cached."""
    machine = machine_with(link, layer_ms, loading)
    copy_s, expert_s, rest_s = parts_s(trace, machine)
    least = 30 * copies * copy_s + 32 * (layer_ms / 1e3 + expert_s) + rest_s
    most = 32 * copies * (copy_s + 1e-4) + 32 * (layer_ms / 1e3 + 2 * expert_s) + rest_s
    assert least < tpot_s(trace, "deepspeed", machine) < most


@pytest.mark.parametrize("policy", ["deepspeed", "lru"])
@pytest.mark.parametrize("loading", ["parallel", "serial"])
def test_time_per_layer_adds_up_where_nothing_is_prefetched_meanwhile(trace, policy, loading):
    without, within = (tpot_s(trace, policy, machine_with(16.0, layer_ms, loading)) for layer_ms in (0.0, 4.0))
    assert within - without == pytest.approx(32 * 4e-3, rel=1e-9)


@pytest.mark.parametrize("policy", ["deepspeed", "lru"])
@pytest.mark.parametrize("loading", ["parallel", "serial"])
def test_times_are_linear_in_one_over_the_rate(trace, policy, loading):
    """So values between simulated rates may be interpolated."""
    at = {link: tpot_s(trace, policy, machine_with(link, 0.0, loading)) for link in (8.0, 16.0, 32.0)}
    assert at[8.0] - at[16.0] == pytest.approx(2 * (at[16.0] - at[32.0]), rel=0.01)


def test_lru_copies_a_tokens_experts_one_after_the_other(trace):
    """Two experts per layer: with 17 slots, none stays cached for 32 layers."""
    machine = machine_with(32.0, 0.0, "serial")
    copy_s, expert_s, rest_s = parts_s(trace, machine)
    assert tpot_s(trace, "lru", machine) == pytest.approx(32 * (2 * copy_s + expert_s) + rest_s, rel=0.01)


@pytest.mark.parametrize("grid", [FULL, QUICK, KICK_THE_TIRES])
def test_every_machine_of_a_grid_can_be_read_and_has_its_values(grid):
    for each in grid.testbeds():
        found = machine_named(each.machine)
        assert found.host_link.bytes_per_s == each.link_gb_per_s * 1e9
        assert found.framework.layer_s == pytest.approx(each.layer_ms / 1e3)
        assert found.demand_loading == each.loading
    assert 6.0 in grid.cache_gb
