"""Tables that figures compute from traces: once per trace, and kept beside the runs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sim.paper.study import Study
from sim.paper.study_traces import users
from sim.paper.tiers import KICK_THE_TIRES
from sim.sweeps.workers import Workers
from tests.support.trace_helpers import small_shape, small_trace
from traces.format.reader import Trace


def counted(trace: Trace, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Notes each call in a file, since another process may make it."""
    with Path(settings["calls"]).open("a") as calls:
        calls.write(f"{os.getpid()} {trace.path.name}\n")
    return pd.DataFrame({"requests": [len(trace.requests)], "factor": [settings["factor"]]})


@pytest.fixture
def study(tmp_path: Path) -> Study:
    traces = [
        small_trace(tmp_path / f"{name}.trace", requests, shape=small_shape())
        for name, requests in (("one", 4), ("other", 5))
    ]
    return Study(traces=users(traces), tier=KICK_THE_TIRES, store=tmp_path / "store", workers=Workers(jobs=1))


def test_an_analysis_is_made_once_per_trace_and_settings(study: Study, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    settings = {"calls": str(calls), "factor": 2}
    table = study.analysed("count", counted, settings)
    assert table.to_dict("list") == {
        "model": ["small", "small"],
        "prompts": ["one", "other"],
        "requests": [4, 5],
        "factor": [2, 2],
    }
    assert [line.split()[1] for line in calls.read_text().splitlines()] == ["one.trace", "other.trace"]
    pd.testing.assert_frame_equal(study.analysed("count", counted, settings), table)
    one = study.analysed("count", counted, settings, study.traces[:1])
    pd.testing.assert_frame_equal(one, table.iloc[:1])
    assert len(calls.read_text().splitlines()) == 2
    other = settings | {"factor": 3}
    study.analysed("count", counted, other, study.traces[1:])
    assert study.analysed("count", counted, other)["requests"].tolist() == [4, 5]  # one kept, one made
    assert len(calls.read_text().splitlines()) == 4
    study.analysed("another", counted, settings)
    assert len(calls.read_text().splitlines()) == 6


def test_figures_for_one_set_of_prompts_leave_the_others_out(study: Study) -> None:
    assert [trace.prompts for trace in study.of_first_prompts()] == ["one"]
    assert [trace.prompts for trace in study.of_other_prompts()] == ["other"]
    assert study.opened(study.traces[1]).path.name == "other.trace"
