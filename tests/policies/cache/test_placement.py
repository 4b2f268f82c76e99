"""Where experts live: dealt in turn, or balanced by what the history demanded."""

import numpy as np
import pytest

from common.errors import UserError
from policies.cache.placement import balanced, demand_counts, place, round_robin, split_slots
from tests.support.builders import KnownFuture, machine, random_requests, request_of, shape
from tests.support.in_memory import Setting, simulate


def test_demands_are_counted_once_per_iteration():
    """A prefill of two tokens that both use expert 1 counts once, each decode step of its own."""
    model = shape(1, 4, top_k=2)
    request = request_of([[[1, 0]], [[1, 2]], [[1, 3]], [[1, 3]]], model, prefill_tokens=2)
    assert demand_counts(model, [request]).tolist() == [[1, 3, 1, 2]]


def test_a_layers_experts_go_in_falling_demand_to_the_least_loaded_gpu():
    """Two of four experts per GPU. 9 → GPU 0, 5 → GPU 1, 3 → GPU 1 (5 < 9), which is full then, 1 → GPU 0: 10 and 8.

    The next layer, all alike, begins where less has been dealt before: expert 0 goes to GPU 1.
    """
    counts = np.array([[9, 1, 5, 3], [2, 2, 2, 2]])
    assert balanced(counts, 2).tolist() == [[0, 0, 1, 1], [1, 0, 1, 0]]


@pytest.mark.parametrize(("layers", "experts", "gpus"), [(4, 8, 6), (3, 8, 3), (5, 6, 4), (2, 4, 1)])
def test_every_gpu_has_as_many_experts_as_in_round_robin(layers, experts, gpus):
    model = shape(layers, experts)
    counts = np.random.default_rng(0).integers(0, 50, (layers, experts))
    home, dealt = balanced(counts, gpus), round_robin(model, gpus)
    for one, other in zip(home, dealt, strict=True):
        assert np.bincount(one, minlength=gpus).tolist() == np.bincount(other, minlength=gpus).tolist()
    assert np.bincount(home.ravel(), minlength=gpus).tolist() == split_slots(model, model.total_experts, gpus)


def test_it_spreads_demand_more_evenly_than_round_robin():
    rng = np.random.default_rng(1)
    counts = rng.zipf(1.6, (12, 32)).clip(max=500)

    def busiest(home):
        return sum(np.bincount(h, weights=c, minlength=4).max() for h, c in zip(home, counts, strict=True))

    assert busiest(balanced(counts, 4)) < 0.9 * busiest(round_robin(shape(12, 32), 4))


def test_hot_experts_that_round_robin_puts_together_are_parted():
    """Experts 0 and 2 are always demanded together; on GPUs of their own, they are copied side by side."""
    model = shape(1, 4, top_k=2)
    requests = [request_of([[[0, 2]], [[1, 3]], [[0, 2]]], model, number=number) for number in range(2)]
    home = place("balanced", model, 2, requests)
    assert home[0, 0] != home[0, 2]
    spans = []
    for placement in ("round-robin", "balanced"):
        setting = Setting(
            model=model, hardware=machine(2, bytes_per_s=1e4), cache_experts=2, placement=placement, check=True
        )
        future = KnownFuture(model, requests)
        spans.append(simulate("clairvoyant", setting, requests, history=requests, future=future).makespan_s)
    assert spans[1] < spans[0]


def test_it_needs_a_history():
    with pytest.raises(
        UserError, match=r"^placement: balanced needs a history; raise `train_split`, or give `history` or `counts`$"
    ):
        place("balanced", shape(), 2, None)


@pytest.mark.parametrize("policy", ["finemoe", "lru", "no-offload", "clairvoyant"])
def test_every_kind_of_policy_runs_under_it(policy):
    model = shape(5, 6)
    requests = random_requests(model, np.random.default_rng(3), requests=4, hidden=3)
    setting = Setting(model=model, hardware=machine(4), cache_experts=9, placement="balanced", check=True)
    run = simulate(policy, setting, requests[2:], history=requests[:2], future=KnownFuture(model, requests[2:]))
    assert len(run.requests) == 2
