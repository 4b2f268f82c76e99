"""What a policy learned before is what it would learn again: no figure says whether it was kept."""

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from policies.base import Evictor, Policy, Prefetcher
from policies.types import Prefetch, learned_at_once
from sim.artefacts import Artefacts
from sim.inputs import Inputs, resolve
from sim.learned_state import learning_from, remembered
from sim.scenario import CacheSize, Scenario
from sim.simulation import simulated_run
from sim.started_policy import Outcome
from tests.support.policy_helpers import ALONE, OUTSIDE
from tests.support.run_helpers import SHAPE
from tests.support.slow_cases import slow_but
from tests.support.trace_helpers import small_trace

LEARNERS = (
    "finemoe",
    "finemoe,capacity=9,learn=false",
    "finemoe,prefetch_distance=2,fill=redundancy,prefill_records=iteration",
    "finemoe,semantic=false",
    "hit-count",
    "map-t",
    "moe-infinity,capacity=3",
    "promoe,lookahead=false",
    "speculate+lecar",
    "tests.support.learned_policy:learned",
)

LEARNING = ("finemoe", "hit-count", "lru", "map-t", "moe-infinity", "moe-infinity-code", "promoe", "speculate")
"""One of each kind that learns, and one that learns nothing."""


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten requests, seven to learn from."""
    return small_trace(tmp_path_factory.mktemp("traced") / "small.trace", 10, shape=SHAPE, lookahead=(1, 2))


@pytest.fixture(scope="module")
def bare_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without prefill and embeddings."""
    folder = tmp_path_factory.mktemp("bare")
    return small_trace(folder / "bare.trace", 10, shape=SHAPE, prefill=False, embedding=False)


@pytest.fixture(scope="module")
def other_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_trace(tmp_path_factory.mktemp("other") / "other.trace", 9, shape=SHAPE, lookahead=(1, 2))


@pytest.fixture
def artefacts(tmp_path: Path) -> Artefacts:
    return Artefacts(tmp_path / "artefacts", "code")


def scenario_of(trace: Path, policy: str, **changes: Any) -> Scenario:
    known = {"machine": "rtx3090", "cache": CacheSize(experts=9), "detail": "events"}
    return Scenario(trace, policy=policy, **(known | changes))


class Unread:
    """A history that must not be read."""

    def __init__(self, requests: int) -> None:
        self.requests = requests

    def __len__(self) -> int:
        return self.requests

    def __iter__(self) -> Any:
        raise AssertionError("read the history")


resolved = cache(resolve)  # what a scenario names is read once


def ran(scenario: Scenario, artefacts: Artefacts | None = None, *, unread: bool = False) -> Outcome:
    inputs = resolved(scenario)
    if unread:
        assert inputs.history is not None
        inputs = replace(inputs, history=Unread(len(inputs.history)))
    return simulated_run(scenario, inputs, learning=learning_from(artefacts, scenario, inputs) if artefacts else None)


def assert_equal(one: Outcome, other: Outcome) -> None:
    assert one.log is not None
    assert other.log is not None
    assert one.log.rows == other.log.rows
    assert one.note == other.note
    pd.testing.assert_frame_equal(one.iterations, other.iterations, check_exact=True)


@pytest.mark.parametrize("policy", slow_but(ALONE, *LEARNING, *OUTSIDE))
def test_kept_learning_does_not_change_what_a_policy_does(policy: str, traced: Path, artefacts: Artefacts) -> None:
    scenario = scenario_of(traced, policy)
    alone = ran(scenario)
    assert_equal(ran(scenario, artefacts), alone)
    assert_equal(ran(scenario, artefacts, unread=policy not in OUTSIDE), alone)
    assert_equal(ran(scenario, Artefacts(None, "code")), alone)


@pytest.mark.parametrize("bare", slow_but([False, True], True))
@pytest.mark.parametrize("policy", LEARNERS)
def test_learning_is_shared_between_machines_and_caches(
    policy: str, bare: bool, traced: Path, bare_trace: Path, artefacts: Artefacts
) -> None:
    """Also without prefill and embeddings, and where the arrays of another policy lie in the same folder."""
    trace = bare_trace if bare else traced
    ran(scenario_of(trace, "finemoe,capacity=4"), artefacts)
    before = len(list(artefacts))
    ran(scenario_of(trace, policy, machine="paper-a100", cache=CacheSize(share=1.0), batch_size=2), artefacts)
    assert len(list(artefacts)) == before + 1
    scenario = scenario_of(trace, policy)
    assert_equal(ran(scenario, artefacts, unread=True), ran(scenario))
    assert len(list(artefacts)) == before + 1


@pytest.mark.parametrize(
    "change",
    [
        {"policy": "finemoe,capacity=9"},
        {"policy": "finemoe+lru"},
        {"policy": "map-ts"},
        {"seed": 1},
        {"train_split": 0.5},
        {"sizes": "mixtral-8x7b"},
        {"history": "other"},
        {"trace": "other"},
    ],
)
def test_another_policy_history_split_model_or_seed_learns_again(
    change: dict[str, Any], traced: Path, other_trace: Path, artefacts: Artefacts
) -> None:
    change = {name: other_trace if value == "other" else value for name, value in change.items()}
    scenario = scenario_of(traced, "finemoe")
    ran(scenario, artefacts)
    with pytest.raises(AssertionError, match="read the history"):
        ran(replace(scenario, **change), artefacts, unread=True)
    ran(replace(scenario, **change), artefacts)
    assert len(list(artefacts)) == 2


def test_the_same_trace_elsewhere_is_the_same_history(traced: Path, artefacts: Artefacts, tmp_path: Path) -> None:
    ran(scenario_of(traced, "finemoe"), artefacts)
    shutil.copytree(traced, tmp_path / "copy.trace")
    ran(scenario_of(tmp_path / "copy.trace", "finemoe"), artefacts, unread=True)


def test_an_edited_policy_of_ones_own_learns_again(
    traced: Path, artefacts: Artefacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = Path(__file__).parents[1] / "support" / "learned_policy.py"
    for text in ("", "# edited\n"):
        (tmp_path / "learned_of_ones_own.py").write_text(source.read_text() + text)
        ran(scenario_of(traced, "learned_of_ones_own:learned"), artefacts)
    assert len(list(artefacts)) == 2


def test_nothing_is_kept_if_code_or_history_cannot_be_identified(traced: Path, artefacts: Artefacts) -> None:
    scenario = scenario_of(traced, "finemoe")
    inputs = resolve(scenario)
    assert learning_from(artefacts, scenario, inputs) is not None
    assert learning_from(artefacts, replace(scenario, policy="__main__:mine"), inputs) is None
    undescribed = Inputs(model=inputs.model, machine=inputs.machine, requests=[])
    assert learning_from(artefacts, scenario, undescribed) is None


# ---- the generator, and the parts of a policy ------------------------------------------------------------------------


def drawn(learned: Any, rng: np.random.Generator) -> list[Any]:
    """What two parts learn under one name, and what is drawn after each. A draw of 32 bits leaves half a number."""

    def learn() -> dict[str, Any]:
        return {"rng": rng.random(3), "b": rng.integers(9, size=1, dtype=np.uint32)}

    answer: list[Any] = []
    for _ in range(2):
        arrays = learned(learn)
        answer += [arrays["rng"].tolist(), arrays["b"].tolist(), int(rng.integers(2**31, dtype=np.uint32))]
        assert sorted(arrays) == ["b", "rng"]
        assert not arrays["rng"].flags.writeable
    return answer


def test_the_generator_continues_as_after_learning_again(artefacts: Artefacts) -> None:
    expected = drawn(learned_at_once, np.random.default_rng(5))
    for kept in (Artefacts(None, "code"), artefacts, artefacts):
        rng = np.random.default_rng(5)
        assert drawn(remembered(kept, {}, rng), rng) == expected
    assert len(list(artefacts)) == 2
    other = np.random.default_rng(6)
    assert drawn(remembered(artefacts, {}, other), other) != expected


class LearningPrefetcher(Prefetcher):
    """Plans by what it learned under the name that the evictor uses too."""

    def start(self, setup: Any) -> None:
        shape = setup.model.layers, setup.model.experts
        self.values = setup.learned(lambda: {"values": np.full(shape, 0.5)})["values"]

    def on_layer(self, batch: Any, layer: int) -> list[Prefetch]:
        return [Prefetch(layer, [0, 1], self.values[layer, :2])]


class LearningEvictor(Evictor):
    """Scores by what it learned."""

    def start(self, setup: Any) -> None:
        super().start(setup)
        self.scores = setup.learned(lambda: {"values": np.arange(setup.model.total_experts, dtype=float)})["values"]


def both_learn() -> Policy:
    """A policy of which both parts learn, neither of them from chance."""
    return Policy(prefetcher=LearningPrefetcher(), evictor=LearningEvictor())


def test_learning_of_prefetcher_and_evictor_is_kept_apart(traced: Path, artefacts: Artefacts) -> None:
    scenario = scenario_of(traced, "tests.sim.test_learned_state:both_learn")
    alone = ran(scenario)
    for _ in range(2):
        assert_equal(ran(scenario, artefacts), alone)
    assert len(list(artefacts)) == 2
