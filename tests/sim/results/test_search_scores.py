"""The mean score of searches in a run's figures, against cosines written out for each record and entry (fig. 16a)."""

from dataclasses import replace

import numpy as np
import pytest

from sim.engine.prediction_tape import PredictionTape
from sim.results.summary import summarise
from sim.simulation import simulated_run
from tests.support.builders import machine
from tests.support.in_memory import Setting
from tests.support.policy_helpers import HISTORY, MODEL, TEST

SETTING = Setting(model=MODEL, hardware=machine(2, bytes_per_s=2e6), cache_experts=9)
DISTANCE = 2
FROZEN = f"finemoe,prefetch_distance={DISTANCE},learn=false"  # its store has room for each record of the history
NAMES = ("search_score_semantic_mean", "search_score_trajectory_mean")


def figures(spec, requests=TEST, *, history=HISTORY, setting=SETTING, tape=None):
    inputs = setting.inputs(requests, history)
    scenario = setting.scenario(spec)
    summary = summarise(simulated_run(scenario, inputs, tape=tape), scenario, inputs)
    return tuple(summary[name] for name in NAMES)


def best_cosine(rows, entries):
    """Of each row, with the entry that is nearest to it; averaged over the rows."""
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (rows.astype(float), entries.astype(float))]
    return (unit[0] @ unit[1].T).max(axis=1).mean()


def expected(requests):
    """One search by embedding for each iteration, and one for each layer that has another `DISTANCE` layers ahead."""
    maps, embeddings = (np.concatenate([getattr(past, name) for past in HISTORY]) for name in ("gate", "embedding"))
    semantic, trajectory = [], []
    for recorded in requests:
        for iteration in np.unique(recorded.iteration):
            own = recorded.iteration == iteration
            semantic.append(best_cosine(recorded.embedding[own], embeddings))
            for layer in range(MODEL.layers - DISTANCE):
                seen, stored = recorded.gate[own, : layer + 1], maps[:, : layer + 1]
                trajectory.append(best_cosine(seen.reshape(len(seen), -1), stored.reshape(len(stored), -1)))
    return np.mean(semantic), np.mean(trajectory)


def test_a_search_score_is_the_mean_cosine_of_the_nearest_entries():
    assert figures(FROZEN) == pytest.approx(expected(TEST), rel=1e-6)


def test_without_embeddings_there_is_no_semantic_search():
    semantic, trajectory = figures("map-t,prefetch_distance=2,learn=false")
    assert semantic is None
    assert trajectory == pytest.approx(expected(TEST)[1], rel=1e-6)


@pytest.mark.parametrize("spec", ["lru", "deepspeed", "moe-infinity,prefetch_distance=1", "promoe,prefetch_distance=1"])
def test_policies_that_search_no_expert_maps_have_no_score(spec):
    assert figures(spec) == (None, None)


def test_an_empty_expert_map_store_is_not_searched():
    assert figures(FROZEN, history=None) == (None, None)
    learned = figures(f"finemoe,prefetch_distance={DISTANCE}", history=None)
    assert all(0 < score <= 1 for score in learned)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("spec", [FROZEN, "finemoe,prefetch_distance=1,capacity=9", "map-t,prefetch_distance=2"])
def test_a_run_that_replays_predictions_has_the_same_to_the_last_bit(spec, batch_size):
    setting = replace(SETTING, batch_size=batch_size)
    tape = PredictionTape()
    found = figures(spec, setting=setting, tape=tape)
    assert found == figures(spec, setting=setting) == figures(spec, setting=setting, tape=PredictionTape(tape.arrays()))
