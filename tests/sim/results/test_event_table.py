"""The decision log as a table, in memory and in a file."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from policies.cache.decision_log import CallName, LoggedCall
from sim import CacheSize, Result, Scenario, simulate
from sim.results.event_table import event_frame, logged_calls
from sim.results.result import read_results, write_results

TEXT, INTEGER, INTEGERS = pa.large_string(), pa.int64(), pa.list_(pa.int64())
SCHEMA = pa.schema(
    {
        "policy": TEXT,
        "time_s": pa.float64(),
        "call": TEXT,
        "iteration": INTEGER,
        "requests": INTEGERS,
        "gpu": INTEGER,
        "layer": INTEGER,
        "experts": INTEGERS,
        "weights": pa.list_(pa.float64()),
        "hits": INTEGERS,
        "late": INTEGERS,
        "misses": INTEGERS,
        "waves": INTEGER,
        "expert": INTEGER,
        "chunk": INTEGER,
        "slot": INTEGER,
        "victim_layer": INTEGER,
        "victim_expert": INTEGER,
        "bytes": INTEGER,
        "demanded": pa.bool_(),
        "complete": pa.bool_(),
    }
)
ONE_OF_EACH = [
    LoggedCall(0.1, "begin_iteration", 3, requests=(8, 9)),
    LoggedCall(0.2, "plan", 3, layer=1, experts=(4, 2), weights=(1 / 3, 5e-324)),
    LoggedCall(0.3, "demand", 3, layer=1, experts=(1, 2, 4), hits=(1,), late=(2,), misses=(4,), waves=2),
    LoggedCall(
        0.3,
        "next_copy",
        3,
        gpu=0,
        layer=1,
        expert=4,
        chunk=0,
        slot=5,
        victim_layer=0,
        victim_expert=7,
        bytes=1 << 40,
        demanded=True,
    ),
    LoggedCall(0.3, "next_copy", 3, gpu=1),
    LoggedCall(0.4, "copied", 3, gpu=0, layer=1, expert=4, chunk=0, slot=5, bytes=9, demanded=True, complete=True),
    LoggedCall(0.5, "release", 3, layer=1, experts=(1, 2, 4)),
]


@pytest.fixture
def result(trace: Path) -> Result:
    return simulate(Scenario(trace, policy="finemoe,capacity=9", cache=CacheSize(share=0.25), detail="events"))


def schema_of(folder: Path) -> pa.Schema:
    return pq.read_schema(folder / "events.parquet").remove_metadata()


def test_every_kind_of_call_reads_back(result: Result, out: Path) -> None:
    assert {row.call for row in ONE_OF_EACH} == set(get_args(CallName))
    written = replace(result, events=event_frame(ONE_OF_EACH))
    written.write(out)
    again = Result.read(out)
    assert again == written
    assert again.events is not None
    assert logged_calls(again.events) == ONE_OF_EACH
    assert schema_of(out) == SCHEMA


def test_a_run_reads_back_to_the_last_type(result: Result, out: Path) -> None:
    result.write(out)
    again = Result.read(out)
    assert result.events is not None
    assert again.events is not None
    assert list(map(repr, logged_calls(again.events))) == list(map(repr, logged_calls(result.events)))
    assert schema_of(out) == SCHEMA


@pytest.mark.parametrize("rows", [[], [LoggedCall(0.0, "next_copy", 0, gpu=0)]], ids=["no rows", "empty lists"])
def test_the_types_do_not_depend_on_the_rows(result: Result, out: Path, rows: list[LoggedCall]) -> None:
    written = replace(result, events=event_frame(rows))
    assert written.events is not None
    assert written.events.dtypes.equals(event_frame(ONE_OF_EACH).dtypes)
    written.write(out)
    again = Result.read(out)
    assert again == written
    assert again.events is not None
    assert again.events.dtypes.equals(written.events.dtypes)
    assert schema_of(out) == SCHEMA


def test_an_empty_log_can_be_stored_with_others(result: Result, out: Path) -> None:
    empty = replace(result, scenario=replace(result.scenario, policy="lru"), events=event_frame([]))
    write_results(out, [empty, result])
    assert read_results(out) == [empty, result]
    assert schema_of(out) == SCHEMA


def test_logs_differ_if_a_value_in_a_list_does(result: Result) -> None:
    plan = LoggedCall(0.2, "plan", 3, layer=1, experts=(4, 2), weights=(0.5, 0.25))
    one, other = (replace(result, events=event_frame([each])) for each in (plan, plan._replace(weights=(0.5, 0.125))))
    assert one != other


def test_pandas_opens_the_file(result: Result, out: Path) -> None:
    replace(result, events=event_frame(ONE_OF_EACH)).write(out)
    events = pd.read_parquet(out / "events.parquet")
    found = events[events["call"] == "demand"].iloc[0]
    assert {name: found[name].tolist() for name in ("hits", "late", "misses")} == {
        "hits": [1],
        "late": [2],
        "misses": [4],
    }
    assert events[events["call"] == "next_copy"]["slot"].tolist() == [5, -1]
