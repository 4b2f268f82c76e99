"""Predictions noted in one run and told to others: nothing changes but what has to be computed."""

from dataclasses import replace

import numpy as np
import pytest

from common.errors import UserError
from policies.base import Evictor
from policies.prediction.expert_map_store import ExpertMapStore
from policies.registry import make_policy
from sim.engine.prediction_tape import PredictionTape, shared_predictions
from sim.simulation import simulated_run
from tests.support.builders import machine
from tests.support.in_memory import Setting
from tests.support.policy_helpers import HISTORY, MODEL, TEST, remade

SETTING = Setting(model=MODEL, hardware=machine(2, bytes_per_s=2e6), cache_experts=9, log=True)
ELSEWHERE = replace(SETTING, hardware=machine(1, bytes_per_s=2e7), cache_experts=13)
BARE = [replace(recorded, embedding=None) for recorded in TEST]


class Unreadable:
    """A history that is there, but not to be read."""

    def __len__(self):
        return 3

    def __iter__(self):
        raise AssertionError("the history is read")


def ran(spec, setting=SETTING, requests=TEST, *, history=HISTORY, tape=None):
    return simulated_run(setting.scenario(spec), setting.inputs(requests, history), tape=tape)


def noted(spec, *given, **more):
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
    )


SPECS = [
    "finemoe,prefetch_distance=2,capacity=9",
    "finemoe,prefetch_distance=4,capacity=100,threshold=demo,queue=all",
    "finemoe,prefetch_distance=1,learn=false,prefill_records=iteration,semantic=false",
    "map-t,prefetch_distance=2",
    "map-ts-delta,prefetch_distance=2",
]


@pytest.mark.parametrize("history", [HISTORY, None])
@pytest.mark.parametrize("requests", [TEST, BARE])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("spec", SPECS)
def test_a_run_that_is_told_is_the_run_that_predicts(spec, batch_size, requests, history, monkeypatch):
    """On another machine and cache, with another evictor, from arrays that lie in no memory of its own."""
    here, there = (replace(each, batch_size=batch_size) for each in (SETTING, ELSEWHERE))
    bare = requests is BARE and history is not None
    past = [replace(recorded, embedding=None) for recorded in HISTORY] if bare else history
    tape = PredictionTape()
    assert same(ran(spec, here, requests, history=past, tape=tape), ran(spec, here, requests, history=past))
    cases = [(spec, here), (spec, there), (f"{spec}+lru", there)]
    expected = [ran(name, setting, requests, history=past) for name, setting in cases]
    monkeypatch.setattr(ExpertMapStore, "__init__", None)  # no store is made
    for (name, setting), outcome in zip(cases, expected, strict=True):
        told = PredictionTape(tape.arrays())
        assert same(ran(name, setting, requests, history=None if past is None else Unreadable(), tape=told), outcome)


def test_arrays_may_be_read_only_and_lie_in_files(tmp_path):
    arrays = {}
    for name, array in noted(SPECS[0]).items():
        np.save(tmp_path / f"{name}.npy", array)
        arrays[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    assert same(ran(SPECS[0], history=Unreadable(), tape=PredictionTape(arrays)), ran(SPECS[0]))


def test_a_plan_is_noted_as_it_was_made():
    arrays = noted(SPECS[0])
    plans = [row for row in ran(SPECS[0]).log.rows if row.call == "plan"]
    assert np.maximum(arrays["sizes"], 0).sum() == len(arrays["experts"]) == len(arrays["weights"]) > 0
    assert len(plans) <= np.count_nonzero(arrays["sizes"] >= 0)  # some came too late for their layer
    assert arrays["beliefs"].shape == (*arrays["sizes"].shape, MODEL.experts)
    assert arrays["experts"].dtype == np.uint16


def test_the_first_requests_of_a_tape_can_be_told():
    assert same(
        ran(SPECS[0], SETTING, TEST[:2], tape=PredictionTape(noted(SPECS[0]))), ran(SPECS[0], SETTING, TEST[:2])
    )


def test_what_an_evictor_draws_is_what_it_would_have_drawn(monkeypatch):
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


def test_the_note_is_told_too():
    bare = [replace(recorded, embedding=None) for recorded in HISTORY]
    arrays = noted(SPECS[0], SETTING, BARE, history=bare)
    told = ran(SPECS[0], SETTING, BARE, history=Unreadable(), tape=PredictionTape(arrays))
    assert "no embeddings" in told.note


def test_a_tape_of_other_requests_is_an_error_of_one_line():
    arrays = noted(SPECS[0])
    with pytest.raises(UserError, match=r"predictions of another run: iteration \d+ has \d+ records"):
        ran(SPECS[0], SETTING, TEST[::-1], tape=PredictionTape(arrays))
    with pytest.raises(UserError, match="predictions of another run: they end before iteration"):
        ran(SPECS[0], SETTING, [*TEST, replace(TEST[0], request=9)], tape=PredictionTape(arrays))


def test_settings_are_refused_whether_predictions_are_told_or_not():
    arrays = noted("finemoe,prefetch_distance=2")
    with pytest.raises(UserError, match="prefetch_distance 9"):
        ran("finemoe,prefetch_distance=9", tape=PredictionTape(arrays))


def test_an_empty_run_has_an_empty_tape():
    arrays = noted(SPECS[0], SETTING, [])
    assert list(arrays) == ["start"]
    assert ran(SPECS[0], SETTING, [], tape=PredictionTape(arrays)).iterations.empty


# ---- whose predictions can be shared ---------------------------------------------------------------------------------


def test_the_identity_is_that_of_the_prefetcher_alone():
    one = shared_predictions("finemoe,capacity=9")
    assert (
        one
        == shared_predictions("finemoe,capacity=9,count_misses=false")
        == shared_predictions("finemoe,capacity=9+lru")
    )
    assert one["capacity"] == 9
    assert one["prefetcher"] == "policies.systems.finemoe:ExpertMapPrefetcher"


@pytest.mark.parametrize(
    "word",
    [
        "prefetch_distance=2",
        "capacity=9",
        "learn=false",
        "fill=redundancy",
        "prefill_records=iteration",
        "semantic=false",
        "threshold=demo",
        "queue=all",
    ],
)
def test_each_setting_of_the_prediction_is_part_of_the_identity(word):
    assert shared_predictions(f"finemoe,{word}") != shared_predictions("finemoe")


@pytest.mark.parametrize(
    "spec",
    ["lru", "moe-infinity", "finemoe,reach=rest", "tests.support.learned_policy:learned", "finemoe+mine:evictor"],
)
def test_predictions_of_others_are_not_shared(spec):
    assert shared_predictions(spec) is None


def test_a_policy_that_is_checked_shares_nothing():
    assert shared_predictions("finemoe", check=True) is None
    with pytest.raises(ValueError, match="does not share"):
        ran("finemoe", replace(SETTING, check=True), tape=PredictionTape())


def test_every_setting_is_in_the_identity_or_the_evictors():
    settings = set(vars(make_policy("finemoe").prefetcher)) - {"reach"}
    assert settings <= set(shared_predictions("finemoe"))
