"""What operations and copies reach of the peaks, by their size, against formulas worked out by hand."""

import math
from dataclasses import replace

import pytest

from common.errors import FieldError
from policies.types import Search
from sim.hardware.curve import best_share_up_to, share_at
from sim.hardware.data_sheet import DataSheetMachine
from sim.hardware.effects import Effects
from sim.hardware.parts import Contention, Efficiency, Framework, Host, Link
from tests.support.builders import machine, shape

MODEL = shape(experts=5, hidden=8, expert_ffn=6, attention_heads=4, kv_heads=2, head_dim=3, vocab=10)
CURVE = ((10.0, 0.2), (1000.0, 0.8))


def reaching(**curves) -> DataSheetMachine:
    return replace(machine(), efficiency=Efficiency(**curves))


def test_a_share_is_linear_in_the_logarithm_of_the_size_and_constant_outside() -> None:
    assert [share_at(CURVE, size) for size in (0, 9, 10)] == [0.2] * 3
    assert share_at(CURVE, 100) == pytest.approx(0.5, rel=1e-15)
    assert share_at(CURVE, 10**1.5) == pytest.approx(0.2 + 0.6 / 4, rel=1e-12)
    assert [share_at(CURVE, size) for size in (1000, 1001, 10**12)] == [0.8] * 3
    assert share_at((), 7) == 1.0
    assert [share_at(((5.0, 0.3),), size) for size in (1, 5, 50)] == [0.3] * 3


def test_the_best_share_up_to_a_size_may_be_reached_below_it() -> None:
    humped = ((10.0, 0.2), (100.0, 0.9), (1000.0, 0.5))
    assert [best_share_up_to(humped, size) for size in (1, 10, 100, 500, 5000)] == [0.2, 0.2, 0.9, 0.9, 0.9]
    assert best_share_up_to(humped, 10**1.5) == share_at(humped, 10**1.5)
    assert best_share_up_to(((10.0, 0.9), (20.0, 0.1)), 1) == 0.9
    assert best_share_up_to((), 3) == 1.0


def test_a_copy_moves_at_the_share_that_its_size_reaches() -> None:
    link = Link(bytes_per_s=1e6, latency_s=0.25, efficiency=CURVE)
    assert link.copy_s(100) == pytest.approx(0.25 + 100 / 0.5e6, rel=1e-12)
    cost = replace(machine(), host_link=link).cost(MODEL)
    assert (cost.copy_s(100), cost.copy_latency_s(100)) == (link.copy_s(100), 0.25)


def test_no_chunking_of_an_expert_is_faster_than_the_lower_bound() -> None:
    """By chunks of 100 bytes a link that tires at large sizes is faster than by whole experts."""
    link = Link(bytes_per_s=1e3, latency_s=1e-9, efficiency=((100.0, 1.0), (200.0, 0.25)))
    assert 10 * link.copy_s(100) < link.copy_s(1000)
    for chunk in (1, 50, 100, 125, 200, 500, 1000):
        assert link.least_copy_s(1000) <= 1000 / chunk * link.copy_s(chunk)
    assert link.least_copy_s(1000) == 1e-9 + 1.0


def test_without_efficiency_the_least_copy_is_the_whole_one() -> None:
    link = Link(bytes_per_s=3e6, latency_s=1.7e-6)
    assert [link.least_copy_s(size) for size in (1, 977, 10**9)] == [link.copy_s(size) for size in (1, 977, 10**9)]


@pytest.mark.parametrize("part", ["expert", "dense", "head"])
@pytest.mark.parametrize("bound", ["flops", "memory"])
def test_an_operation_reaches_its_own_share_of_its_own_peak_by_its_tokens(part: str, bound: str) -> None:
    """The other resource is free, so that all above the overhead goes with 1 / share; 100 tokens reach half."""
    rate = {"flops": "memory_bytes_per_s", "memory": "flops_per_s"}[bound]
    free = replace(machine().gpu, **{rate: math.inf})

    def seconds(hardware: DataSheetMachine, tokens: int) -> float:
        cost = replace(hardware, gpu=free).cost(MODEL)
        return {
            "expert": cost.expert_s(tokens),
            "dense": cost.dense_s(tokens, tokens, tokens),
            "head": cost.head_s(tokens),
        }[part] - free.overhead_s

    for tokens, share in (1, 0.2), (100, 0.5), (4096, 0.8):
        peak = seconds(machine(), tokens)
        assert seconds(reaching(**{f"{part}_{bound}": CURVE}), tokens) == pytest.approx(peak / share, rel=1e-9)
        others = {f"{name}_{of}": CURVE for name in ("expert", "dense", "head") for of in ("flops", "memory")}
        del others[f"{part}_{bound}"]
        assert seconds(reaching(**others), tokens) == peak


@pytest.mark.parametrize(
    ("curve", "said"),
    [
        ([3], "efficiency: must be a list, not 3"),
        ([[1]], "efficiency: must be a list of [size, share of the peak], not [1.0]"),
        ([[1, 0.1, 2]], "efficiency: must be a list of [size, share of the peak], not [1.0, 0.1, 2.0]"),
        ([[0, 0.1]], "efficiency: sizes must be above 0 and increase, but 0 follows 0"),
        ([[5, 0.1], [5, 0.2]], "efficiency: sizes must be above 0 and increase, but 5 follows 5"),
        ([[5, 0]], "efficiency: a share of the peak must be above 0 and at most 1, not 0"),
        ([[5, 1.5]], "efficiency: a share of the peak must be above 0 and at most 1, not 1.5"),
        ([["a", 1]], "efficiency: must be a number, not 'a'"),
    ],
)
def test_impossible_efficiencies_are_refused(curve: list, said: str) -> None:
    with pytest.raises(FieldError) as error:
        Link(bytes_per_s=1, latency_s=0, efficiency=curve)
    assert str(error.value) == said


def test_experts_come_from_the_memory_that_they_are_in() -> None:
    slow = Link(bytes_per_s=1e3, latency_s=0.5)
    both = replace(machine(), pageable_link=slow)
    assert both.cost(MODEL).copy_s(1000) == machine().cost(MODEL).copy_s(1000)
    pageable = replace(both, copies="pageable").cost(MODEL)
    assert (pageable.copy_s(1000), pageable.least_copy_s(1000), pageable.copy_latency_s(9)) == (1.5, 1.5, 0.5)
    with pytest.raises(FieldError, match=r"^copies: pageable needs a table pageable_link$"):
        replace(machine(), copies="pageable")


def test_costs_say_which_effects_are_on() -> None:
    assert machine().cost(MODEL).effects == Effects()
    on = replace(
        machine(),
        host=Host(memory_bytes_per_s=7.0),
        framework=Framework(layer_s=0.5, expert_s=0.25),
        contention=Contention(compute_slowdown=1.5, copy_slowdown=1.25),
    )
    assert on.cost(MODEL).effects == Effects(
        host_bytes_per_s=7.0, layer_host_s=0.5, expert_host_s=0.25, compute_slowdown=1.5, copy_slowdown=1.25
    )
    search = Search("trajectory", 0, 1, 8, 1000)
    assert on.cost(MODEL).search_s(search) == machine().cost(MODEL).search_s(search)
