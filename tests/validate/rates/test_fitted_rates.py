"""From times to rates: what was put in comes out."""

import pytest

from sim.hardware.curve import share_at
from validate.rates.device_timer import Timing
from validate.rates.fitted_rates import Peaks, efficiencies, fitted_link
from validate.rates.framework_time import StepTime, framework_time
from validate.rates.operations import OperationTime

PEAKS = Peaks(flops_per_s=1e12, product_side=1, memory_bytes_per_s=1e11, copied_bytes=1, overhead_s=5e-6)


def operation(tokens, seconds, *, flops, memory_bytes, operation="expert"):
    timing = Timing(median_s=seconds, least_s=seconds, most_s=seconds)
    return OperationTime(
        model="any",
        operation=operation,
        tokens=tokens,
        context=0,
        attended=0,
        flops=flops,
        memory_bytes=memory_bytes,
        timing=timing,
    )


def test_a_link_of_one_rate_and_a_latency_is_found():
    link = fitted_link({size: 10e-6 + size / 25e9 for size in (2**16, 2**20, 2**24, 2**28)})
    assert link.latency_s == pytest.approx(10e-6)
    assert link.bytes_per_s == pytest.approx(25e9, rel=1e-6)
    assert [share for _, share in link.efficiency] == pytest.approx([1.0] * 4, rel=1e-3)


def test_a_link_gives_back_every_time_that_was_measured():
    seconds = {2**14: 9e-6, 2**18: 30e-6, 2**22: 200e-6, 2**26: 3e-3, 2**30: 90e-3}  # the last one is slower per byte
    link = fitted_link(seconds)
    assert {size: link.copy_s(size) for size in seconds} == pytest.approx(seconds)
    assert max(share for _, share in link.efficiency) == 1
    assert link.latency_s <= 0.9 * 9e-6


def test_noise_that_makes_a_larger_copy_faster_leaves_rates_above_zero():
    link = fitted_link({2**16: 13e-3, 2**20: 2e-3, 2**24: 2.5e-3})
    assert min(share for _, share in link.efficiency) > 0
    assert link.copy_s(2**16) == pytest.approx(13e-3)


def test_a_time_yields_the_rate_that_bounds_it():
    """Memory takes 100 µs and computing 1 µs, and 1 against 100 µs: the shares are 0.5 and 0.8."""
    memory_bound = operation(1, 5e-6 + 200e-6, flops=1e6, memory_bytes=1e7)
    compute_bound = operation(512, 5e-6 + 125e-6, flops=1e8, memory_bytes=1e5)
    curves = efficiencies([memory_bound, compute_bound], PEAKS)
    assert curves == {"expert_memory": ((1.0, pytest.approx(0.5)),), "expert_flops": ((512.0, pytest.approx(0.8)),)}


def test_of_several_models_the_median_share_counts_and_no_share_is_above_one():
    times = [operation(1, 5e-6 + seconds, flops=1e6, memory_bytes=1e7) for seconds in (50e-6, 125e-6, 200e-6)]
    (point,) = efficiencies(times, PEAKS)["expert_memory"]
    assert point == (1.0, pytest.approx(0.8))
    (beyond,) = efficiencies(times[:1], PEAKS)["expert_memory"]
    assert beyond == (1.0, 1.0)
    assert share_at((beyond,), 7) == 1


def test_idle_time_is_divided_among_steps_layers_and_experts():
    steps = [
        StepTime(
            model="any",
            layers=layers,
            experts=experts,
            wall_s=3e-3 + layers * (1e-3 + experts * 5e-5 + 1e-4),
            busy_s=layers * 1e-4,
        )
        for layers in (2, 4)
        for experts in (1, 2, 8)
    ]
    found = framework_time(steps)
    assert (found.step_s, found.layer_s, found.expert_s) == pytest.approx((3e-3, 1e-3, 5e-5))
