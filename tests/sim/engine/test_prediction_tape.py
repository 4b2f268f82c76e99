"""Predictions recorded in one run and replayed in others: nothing changes but what has to be computed."""

from dataclasses import replace

import numpy as np
import pytest

from common.errors import UserError
from policies.base import Evictor
from policies.prediction.activation_matrices import ActivationMatrices
from policies.prediction.expert_map_store import ExpertMapStore
from policies.prediction.speculation import Speculator
from sim.engine.prediction_tape import PredictionTape
from sim.simulation import simulated_run
from tests.support.builders import machine
from tests.support.in_memory import Setting
from tests.support.policy_helpers import HISTORY, MODEL, TEST, remade

SETTING = Setting(model=MODEL, hardware=machine(2, bytes_per_s=2e6), cache_experts=9, log=True)
ELSEWHERE = replace(SETTING, hardware=machine(1, bytes_per_s=2e7), cache_experts=13)
BARE = [replace(past, embedding=None) for past in TEST]


class Unreadable:
    """A history that is there, but not to be read."""

    def __len__(self):
        return 3

    def __iter__(self):
        raise AssertionError("the history is read")


def ran(spec, setting=SETTING, requests=TEST, *, history=HISTORY, tape=None):
    return simulated_run(setting.scenario(spec), setting.inputs(requests, history), tape=tape)


def recorded(spec, *given, **more):
    tape = PredictionTape()
    ran(spec, *given, **more, tape=tape)
    return tape.arrays()


def same(one, other):
    return (
        one.log.rows == other.log.rows
        and one.iterations.equals(other.iterations)
        and one.requests.equals(other.requests)
        and (one.makespan_s, one.counts, one.note) == (other.makespan_s, other.counts, other.note)
        and one.prediction_charged == other.prediction_charged
        and one.search_score_semantic == other.search_score_semantic
        and one.search_score_trajectory == other.search_score_trajectory
    )


SPECS = [
    "finemoe,prefetch_distance=2,capacity=9",
    "finemoe,prefetch_distance=4,capacity=100,threshold=demo,queue=all",
    "finemoe,prefetch_distance=1,learn=false,prefill_records=iteration,semantic=false",
    "map-t,prefetch_distance=2",
    "map-ts-delta,prefetch_distance=2",
    "hit-count,prefetch_distance=2,capacity=3",
    "mixtral-offloading",
    "moe-infinity,prefetch_distance=1",
    "moe-infinity,prefetch_distance=4,capacity=3,blocking_prefetch=false",
    "promoe,prefetch_distance=1,lookahead=false,chunk_bytes=7",
    "promoe,prefetch_distance=2",
    "speculate,prefetch_distance=3",  # from layer 0 by two lookahead gates and a learned map
]
EACH = [SPECS[0], "hit-count,prefetch_distance=2", "moe-infinity", "promoe"]


@pytest.mark.parametrize(
    ("batch_size", "requests", "history"),  # each two of the choices meet
    [
        (1, TEST, HISTORY),
        pytest.param(3, TEST, None, marks=pytest.mark.slow),
        pytest.param(1, BARE, None, marks=pytest.mark.slow),
        pytest.param(3, BARE, HISTORY, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("spec", SPECS)
def test_a_run_that_replays_is_the_run_that_predicts(spec, batch_size, requests, history, monkeypatch):
    """On another machine and cache, with another evictor, from arrays that lie in no memory of its own."""
    replays(spec, batch_size, requests, history, monkeypatch)


@pytest.mark.parametrize("spec", EACH)
def test_batches_without_embeddings_replay_too(spec, monkeypatch):
    """The same of one policy of each kind."""
    replays(spec, 3, BARE, HISTORY, monkeypatch)


def replays(spec, batch_size, requests, history, monkeypatch):
    here, there = (replace(each, batch_size=batch_size) for each in (SETTING, ELSEWHERE))
    bare = requests is BARE and history is not None
    past = [replace(past, embedding=None) for past in HISTORY] if bare else history
    tape = PredictionTape()
    cases = [(spec, here), (spec, there), (f"{spec}+lru", there)]
    expected = [ran(name, setting, requests, history=past) for name, setting in cases]
    assert same(ran(spec, here, requests, history=past, tape=tape), expected[0])
    monkeypatch.setattr(ExpertMapStore, "__init__", None)  # nothing is stored, learned or searched
    monkeypatch.setattr(ActivationMatrices, "__init__", None)
    monkeypatch.setattr(Speculator, "_likely", None)
    for (name, setting), outcome in zip(cases, expected, strict=True):
        replaying = PredictionTape(tape.arrays())
        assert same(
            ran(name, setting, requests, history=None if past is None else Unreadable(), tape=replaying), outcome
        )


def test_recorded_arrays_may_be_read_only_and_memory_mapped(tmp_path):
    arrays = {}
    for name, array in recorded(SPECS[0]).items():
        np.save(tmp_path / f"{name}.npy", array)
        arrays[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    assert same(ran(SPECS[0], history=Unreadable(), tape=PredictionTape(arrays)), ran(SPECS[0]))


def test_a_plan_is_recorded_as_it_was_made():
    arrays = recorded(SPECS[0])
    plans = [row for row in ran(SPECS[0]).log.rows if row.call == "plan"]
    assert np.maximum(arrays["sizes"], 0).sum() == len(arrays["experts"]) == len(arrays["weights"]) > 0
    recorded_plans = np.count_nonzero(arrays["sizes"] >= 0)
    assert len(plans) <= recorded_plans  # some came too late for their layer
    assert arrays["beliefs"].shape == (recorded_plans, MODEL.experts)
    assert arrays["experts"].dtype == np.uint16


def test_a_plan_that_stays_the_same_is_recorded_once():
    """The nearest past request is always the only one: a plan for the prefill and one for each token after it."""
    (past, *_) = HISTORY
    arrays = recorded("moe-infinity", SETTING, [past], history=[past])
    iterations, places = arrays["sizes"].shape
    assert iterations > 3
    assert (arrays["sizes"][:2] >= 0).all()
    assert (arrays["sizes"][2:] < 0).all()
    assert len(arrays["beliefs"]) == 2 * places


@pytest.mark.parametrize("spec", EACH)
def test_the_first_requests_of_a_tape_can_be_replayed(spec):
    tape = PredictionTape(recorded(spec))
    assert same(ran(spec, SETTING, TEST[:2], tape=tape), ran(spec, SETTING, TEST[:2]))


@pytest.mark.parametrize("spec", EACH)
def test_blocks_may_end_in_the_middle_of_requests(spec, monkeypatch):
    expected = ran(spec)
    remade(monkeypatch, lambda policy: setattr(policy.prefetcher, "block", 3))
    tape = PredictionTape()
    assert same(ran(spec, tape=tape), expected)
    assert same(ran(spec, tape=PredictionTape(tape.arrays())), expected)


def test_replaying_does_not_change_an_evictors_random_draws(monkeypatch):
    class Drawing(Evictor):
        def start(self, setup):
            super().start(setup)
            self._rng = setup.rng
            self.scores[:] = setup.rng.random(len(self.scores))

        def touched(self, layer, experts, now_s):
            self.scores[layer * self.experts + experts[0]] = self._rng.random()

    remade(monkeypatch, lambda policy: object.__setattr__(policy, "evictor", Drawing()))
    tape = PredictionTape()
    expected = ran("finemoe,capacity=9", tape=tape)
    assert expected.counts.misses > 0
    assert same(ran("finemoe,capacity=9", tape=PredictionTape(tape.arrays())), expected)


def test_the_note_is_replayed_too():
    bare = [replace(past, embedding=None) for past in HISTORY]
    arrays = recorded(SPECS[0], SETTING, BARE, history=bare)
    replayed = ran(SPECS[0], SETTING, BARE, history=Unreadable(), tape=PredictionTape(arrays))
    assert "no embeddings" in replayed.note


@pytest.mark.parametrize("spec", EACH)
def test_a_tape_of_other_requests_is_an_error_of_one_line(spec):
    arrays = recorded(spec)
    with pytest.raises(UserError, match=r"predictions of another run: iteration \d+ has \d+ tokens, the pred.* of \d+"):
        ran(spec, SETTING, TEST[::-1], tape=PredictionTape(arrays))
    with pytest.raises(UserError, match="predictions of another run: they end before iteration"):
        ran(spec, SETTING, [*TEST, replace(TEST[0], request=9)], tape=PredictionTape(arrays))


@pytest.mark.parametrize("name", ["finemoe", "hit-count", "moe-infinity", "promoe"])
def test_settings_are_refused_whether_predictions_are_replayed_or_not(name):
    arrays = recorded(f"{name},prefetch_distance=2")
    with pytest.raises(UserError, match="distance: must be from 1 to 4, not 9"):
        ran(f"{name},prefetch_distance=9", tape=PredictionTape(arrays))


@pytest.mark.parametrize("spec", EACH)
def test_an_empty_run_has_an_empty_tape(spec):
    arrays = recorded(spec, SETTING, [])
    assert list(arrays) == ["start"]
    assert ran(spec, SETTING, [], tape=PredictionTape(arrays)).iterations.empty


def test_a_policy_that_is_checked_has_no_tape():
    with pytest.raises(ValueError, match="does not share"):
        ran("finemoe", replace(SETTING, check=True), tape=PredictionTape())
