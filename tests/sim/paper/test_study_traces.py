"""Which traces a reproduction is made from, and what tables call them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import FieldError, UserError
from sim.paper.reproduction import prepared_study
from sim.paper.study_traces import are_all_twins, twins, users
from sim.paper.tiers import FULL, KICK_THE_TIRES, QUICK
from sim.sweeps.workers import Workers
from tests.support.trace_helpers import small_shape, small_trace
from traces.published_models import PUBLISHED

HERE = Workers(jobs=1)


def test_the_twins_are_three_models_on_two_sets_of_prompts_with_the_papers_distances() -> None:
    found = twins(FULL, Path("routing"))
    assert [each.title for each in found] == [f"{m}, {p}" for p in ("chat", "text") for m in ("Mixtral", "Qwen", "Phi")]
    assert {each.model: each.best_distance for each in found} == {"Mixtral": 3, "Qwen": 6, "Phi": 4}  # fig. 15
    assert found[0].sizes == "mixtral-8x7b"


def test_tiers_of_different_size_share_no_trace() -> None:
    names = [each.path.name for tier in (FULL, QUICK, KICK_THE_TIRES) for each in twins(tier, Path("routing"))]
    assert len(set(names)) == len(names) == 6 + 6 + 3


def test_other_routing_with_a_twins_name_is_not_a_twin(tmp_path: Path) -> None:
    every = twins(FULL, tmp_path)
    for trace in every:
        small_trace(trace.path, 1, shape=small_shape(), model=f"{trace.sizes}-twin")
    assert are_all_twins(every)
    assert not are_all_twins(every[:3])
    shutil.rmtree(every[0].path)
    small_trace(every[0].path, 1, shape=small_shape(), model="mixtral-8x7b")
    assert not are_all_twins(every)


def test_a_users_trace_is_named_after_its_model_and_prompts(tmp_path: Path) -> None:
    trace = small_trace(tmp_path / "mine.trace", 4, shape=small_shape())
    (found,) = users([trace])
    assert (found.title, found.sizes, found.best_distance) == ("small, mine", None, 3)


def test_a_model_of_the_paper_is_recognised_by_its_shape(tmp_path: Path) -> None:
    shape = replace(PUBLISHED["qwen1.5-moe-a2.7b"], name="Qwen/Qwen1.5-MoE-A2.7B-Chat", vocab=50)
    trace = small_trace(tmp_path / "lmsys.trace", 1, shape=shape)
    (found,) = users([trace])
    assert (found.model, found.sizes, found.best_distance) == ("Qwen", None, 6)


def test_two_traces_of_one_model_and_set_are_refused(tmp_path: Path) -> None:
    first = small_trace(tmp_path / "mine.trace", 4, shape=small_shape())
    again = small_trace(tmp_path / "more" / "mine.trace", 5, shape=small_shape())
    with pytest.raises(
        UserError, match=r"mine\.trace: another trace is also of .*; give one trace per model and prompts"
    ):
        users([first, again])


def test_twins_and_traces_cannot_be_mixed(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match=r"routing: must be either twins or traces, not both: twins mine\.trace"):
        prepared_study("quick", ["twins", "mine.trace"], out=tmp_path, store=tmp_path / "store", workers=HERE)
