"""Tokens that pass a layer by, as those of a prompt whose answer only needs the last one: no policy trips over them."""

from dataclasses import replace

import numpy as np
import pytest

from policies.registry import policy_names
from sim.engine.batching import fixed_batches
from tests.support.builders import KnownFuture, machine, random_requests, shape, with_lookahead
from tests.support.in_memory import Setting, simulate
from tests.support.slow_cases import slow_but
from traces.analysis.iterations import iterations_of

MODEL = shape(4, 8)


def passing_by(recorded):
    """Only the last token of the prefill executes the last layer; a decode step drops an expert of layer 1."""
    experts, gate = recorded.experts.copy(), recorded.gate.copy()
    for layer in range(MODEL.layers):  # as imported traces have them: known at the executed experts only
        mask = np.zeros(gate[:, layer].shape, bool)
        np.put_along_axis(mask, experts[:, layer].astype(int), True, axis=1)
        gate[:, layer] *= mask
    prompt = int((recorded.iteration == 0).sum())
    experts[: prompt - 1, -1] = -1
    gate[: prompt - 1, -1] = 0
    gate[prompt, 1, experts[prompt, 1, 1]] = 0
    experts[prompt, 1, 1] = -1
    totals = gate.sum(axis=2, keepdims=True, dtype=np.float32)
    gate = np.divide(gate, totals, out=np.zeros(gate.shape, np.float16), where=totals > 0, casting="unsafe")
    return replace(recorded, experts=experts, gate=gate)


def requests(hidden):
    drawn = random_requests(MODEL, np.random.default_rng(8), requests=6, decoded=10, prefill_tokens=5, hidden=hidden)
    return [passing_by(with_lookahead(recorded, 1)) for recorded in drawn]


def distinct(recorded):
    return {
        (iteration, layer, expert)
        for iteration, layers in zip(recorded.iteration.tolist(), recorded.experts.tolist(), strict=True)
        for layer, experts in enumerate(layers)
        for expert in experts
        if expert >= 0
    }


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("gpus", "hidden"), slow_but([(1, None), (1, 3), (2, None), (2, 3)], (1, 3), (2, None)))
@pytest.mark.parametrize("policy", [*policy_names(), "finemoe,prefill_records=iteration", "finemoe,learn=false"])
def test_every_policy_runs_and_only_executed_experts_are_demanded(policy, gpus, hidden):
    history, tested = requests(hidden)[:3], requests(hidden)[3:]
    setting = Setting(model=MODEL, hardware=machine(gpus), cache_experts=20, batch_size=gpus)
    run = simulate(policy, setting, tested, history=history, future=KnownFuture(MODEL, tested))
    counts = run.counts
    demanded = counts.hits + counts.late + counts.misses
    assert demanded == sum(len(set(layer)) for step in fixed_batches(tested, gpus) for layer in step.demands)
    if gpus == 1:
        assert demanded == sum(len(distinct(recorded)) for recorded in tested)


def test_a_step_counts_the_tokens_of_each_executed_expert():
    recorded = requests(None)[0]
    prefill, first, *_ = fixed_batches([recorded], 1)
    assert sum(prefill.loads[-1]) == MODEL.top_k  # of one token
    assert sum(prefill.loads[0]) == 5 * MODEL.top_k
    assert len(first.demands[1]) == 1
    assert first.demands[1][0] == recorded.experts[5, 1, 0]


def test_the_map_of_a_prefill_is_of_the_tokens_that_execute_the_layer():
    recorded = requests(None)[0]
    maps = iterations_of(recorded, prefill=True).maps
    assert maps.sum(axis=2) == pytest.approx(np.ones(maps.shape[:2]), rel=1e-6)
    np.testing.assert_allclose(maps[0, -1], recorded.gate[4, -1], rtol=2e-3)
