"""The files of a trace, what a writer rejects, and how a trace is read."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from common.errors import UserError
from policies.types import RecordedRequest
from tests.support.trace_helpers import (
    PLAN,
    assert_same,
    change_values,
    random_request,
    small_meta,
    small_shape,
    small_trace,
)
from traces.format.reader import RecordedFuture, Requests, Trace, split
from traces.format.schema import RequestInfo, TraceError
from traces.format.writer import TraceWriter


def test_a_request_is_one_row_group(tmp_path: Path) -> None:
    path = small_trace(tmp_path / "a.trace", requests=5)
    file = pq.ParquetFile(path / "tokens.parquet")
    assert [set(file.read_row_group(i)["request"].to_pylist()) for i in range(5)] == [{0}, {1}, {2}, {3}, {4}]


def test_the_files_are_as_the_design_tabulates(tmp_path: Path) -> None:
    path = small_trace(tmp_path / "a.trace", lookahead=(1, 2))
    assert sorted(file.name for file in path.iterdir()) == [
        "embeddings.parquet",
        "meta.json",
        "requests.parquet",
        "tokens.parquet",
    ]
    types = {field.name: str(field.type) for field in pq.read_schema(path / "tokens.parquet")}
    gate = "fixed_size_list<element: halffloat not null>[18]"
    assert types == {
        "request": "int32",
        "iteration": "int32",
        "position": "int32",
        "token": "int32",
        "gate": gate,
        "experts": "fixed_size_list<element: uint8 not null>[6]",
        "lookahead_1": gate,
        "lookahead_2": gate,
    }
    assert pq.read_schema(path / "requests.parquet").names == [
        "request", "source", "split", "arrival_s", "prompt_tokens", "output_tokens", "prompt_sha256",
    ]  # fmt: skip
    assert {field.name: str(field.type) for field in pq.read_schema(path / "embeddings.parquet")} == {
        "token": "int32",
        "vector": "fixed_size_list<element: halffloat not null>[4]",
    }
    tokens = pq.read_table(path / "embeddings.parquet")["token"].to_pylist()
    assert tokens == sorted(set(tokens))


# What a writer refuses


def refused(tmp_path: Path, info: RequestInfo, recorded: RecordedRequest, **changes: Any) -> str:
    with (
        TraceWriter(tmp_path / "a.trace", small_meta(**changes), plan=PLAN) as writer,
        pytest.raises(TraceError) as caught,
    ):
        writer.write_part(0, [info], [recorded])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_writer_refuses_what_a_reader_would(tmp_path: Path) -> None:
    info, recorded = random_request(0, small_meta())
    gate = recorded.gate.copy()
    gate[2, 1, 0] = np.nan
    assert "request 0: row 2, layer 1, field gate: must be finite, not nan" in refused(
        tmp_path, info, replace(recorded, gate=gate)
    )
    wide = replace(recorded, gate=recorded.gate.astype(np.float32))
    assert "field gate: must be float16, not float32" in refused(tmp_path, info, wide)
    short = replace(recorded, experts=recorded.experts[:, :2])
    assert "field experts: shape must be [8, 3, 2], not [8, 2, 2]" in refused(tmp_path, info, short)
    assert "field lookahead_1: is missing" in refused(tmp_path, info, replace(recorded, lookahead={}))
    negative = replace(recorded, experts=np.where(recorded.experts == recorded.experts[0, 0, 0], -1, recorded.experts))
    assert "row 0, layer 0, field experts: must be from 0 to 5, not -1" in refused(tmp_path, info, negative)
    assert "must have 9 iterations according to output_tokens, not 4" in refused(
        tmp_path, replace(info, output_tokens=9), recorded
    )
    assert "field embedding: is missing" in refused(tmp_path, info, replace(recorded, embedding=None))


def test_two_embeddings_of_one_token_are_an_error_within_a_part_and_between_parts(tmp_path: Path) -> None:
    meta = small_meta(lookahead=())
    (info, recorded), (later, other) = random_request(0, meta), random_request(1, meta)
    token = np.array([7, 7], np.int32)
    vectors = np.array([[1, 2, 3, 4], [1, 2, 3, 5]], np.float16)
    with TraceWriter(tmp_path / "a.trace", meta, plan=PLAN) as writer:
        with pytest.raises(TraceError, match="field token: 7 has two different embeddings"):
            writer.write_part(0, [info], [recorded], (token, vectors))
        same = replace(recorded, token=np.full_like(recorded.token, 7), embedding=None)
        writer.write_part(0, [info], [same], (token, vectors[[0, 0]]))
        differs = replace(other, token=np.full_like(other.token, 7), embedding=None)
        writer.write_part(1, [later], [differs], (token[:1], vectors[1:]))
        with pytest.raises(TraceError, match="field token: 7 has two different embeddings"):
            writer.finish()


def test_a_part_whose_tokens_have_no_embedding_is_refused(tmp_path: Path) -> None:
    meta = small_meta()
    info, recorded = random_request(0, meta)
    recorded = replace(recorded, token=np.arange(8, dtype=np.int32))
    given = np.arange(7, dtype=np.int32), np.ones((7, 4), np.float16)
    with (
        TraceWriter(tmp_path / "a.trace", meta, plan=PLAN) as writer,
        pytest.raises(TraceError, match="row 7, field token: 7 has no embedding"),
    ):
        writer.write_part(0, [info], [recorded], given)


def test_a_request_is_written_once(tmp_path: Path) -> None:
    meta = small_meta()
    pair = random_request(0, meta)
    with TraceWriter(tmp_path / "a.trace", meta, plan=PLAN) as writer:
        writer.write_part(0, [pair[0]], [pair[1]])
        with pytest.raises(TraceError, match="request 0: is already in part 0"):
            writer.write_part(1, [pair[0]], [pair[1]])


def test_a_request_whose_number_is_too_large_is_refused(tmp_path: Path) -> None:
    info, recorded = random_request(2**31, small_meta())
    assert "field request: must be at most 2147483647, not 2147483648" in refused(tmp_path, info, recorded)


def test_wrong_names_and_empty_traces_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.folder: the name of a trace must end in \.trace"):
        TraceWriter(tmp_path / "a.folder", small_meta(), plan=PLAN)
    with (
        TraceWriter(tmp_path / "a.trace", small_meta(), plan=PLAN) as writer,
        pytest.raises(UserError, match="there is no request"),
    ):
        writer.finish()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"kind": "measured"}, "field kind: must be captured, imported, synthetic or fitted, not 'measured'"),
        ({"score": "tanh"}, "field score: must be softmax or sigmoid, not 'tanh'"),
        ({"lookahead": (3,)}, r"field lookahead: must be ascending distances from 1 to 2, not \[3\]"),
        ({"generation": {"temperature": float("inf")}}, "has a value that JSON cannot represent: "),
        ({"shape": small_shape(hidden=2**31)}, "field shape.hidden: a row would have 2147483648 values"),
        ({"lookahead": (2, 1)}, "field lookahead: must be ascending"),
        ({"shape": small_shape(top_k=7)}, "field shape.top_k: must be at most 6, the number of experts, not 7"),
        ({"shape": small_shape(experts=40000)}, "field shape.experts: must be below 32768, not 40000"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(TraceError, match=line):
        small_meta(**changes)


# Reading


def test_requests_are_a_table(tmp_path: Path) -> None:
    table = Trace.open(small_trace(tmp_path / "a.trace")).requests
    assert table["request"].tolist() == [0, 1, 2, 3]
    assert table["source"].tolist() == ["source 0", "source 1", "source 2", "source 0"]
    assert table["prompt_tokens"].tolist() == [5, 5, 5, 5]
    assert table["arrival_s"].isna().tolist() == [False, True, False, True]
    assert table["arrival_s"][2] == 2 / 7
    imported = Trace.open(small_trace(tmp_path / "b.trace", prefill=False)).requests
    assert imported["prompt_tokens"].isna().all()


@pytest.mark.parametrize("prefill", [True, False])
def test_demands_are_the_union_of_an_iterations_tokens(tmp_path: Path, prefill: bool) -> None:
    trace = Trace.open(small_trace(tmp_path / "a.trace", prefill=prefill))
    future = RecordedFuture(trace, [2, 1])
    assert list(future.requests) == [2, 1]
    recorded, found = trace.read(2), future.demands(2)
    expected = np.zeros((4, 3, 6), bool)
    for row, iteration in enumerate(recorded.iteration):
        for layer in range(3):
            for expert in recorded.experts[row, layer]:
                expected[iteration if prefill else iteration - 1, layer, expert] = True
    np.testing.assert_array_equal(found, expected)


def test_a_sequence_reaches_its_last_position_wherever_the_recording_begins(tmp_path: Path) -> None:
    path = small_trace(tmp_path / "a.trace", 2, prefill=False)

    def later(positions: list[int]) -> None:
        positions[4:] = [40, 41, 50, 51]  # the second request's

    change_values(path, "tokens.parquet", "position", later)
    trace = Trace.open(path)
    assert [trace.positions(request) for request in (0, 1)] == [4, 52]
    assert trace.positions(1) == trace.read(1).position.max() + 1


def test_a_position_that_a_reader_would_reject_is_not_counted(tmp_path: Path) -> None:
    path = small_trace(tmp_path / "a.trace", 2, prefill=False)

    def backwards(positions: list[int]) -> None:
        positions[5] = 0

    change_values(path, "tokens.parquet", "position", backwards)
    trace = Trace.open(path)
    for read in (trace.positions, trace.read):
        with pytest.raises(TraceError, match="row 5, field position: must be greater than in the row before, not 0"):
            read(1)


def test_a_history_can_be_read_again_and_again(tmp_path: Path) -> None:
    history = Requests(Trace.open(small_trace(tmp_path / "a.trace")), [3, 1])
    assert len(history) == 2
    assert [one.request for one in history] == [3, 1]
    assert [one.request for one in history] == [3, 1]


def test_a_split_is_random_complete_and_in_order(tmp_path: Path) -> None:
    trace = Trace.open(small_trace(tmp_path / "a.trace", requests=20))
    train, test = split(trace.request_ids, 0.7, np.random.default_rng(0))
    assert len(train) == 14
    assert sorted(train + test) == list(range(20))
    assert train == sorted(train)
    assert test == sorted(test)
    assert (train, test) == split(trace.request_ids, 0.7, np.random.default_rng(0))
    assert train != split(trace.request_ids, 0.7, np.random.default_rng(1))[0]
    assert split(trace.request_ids, 1.0, np.random.default_rng(0))[1] == []
    with pytest.raises(UserError, match=r"train_share must be from 0 to 1, not 1\.5"):
        split(trace.request_ids, 1.5, np.random.default_rng(0))


def test_an_unknown_request_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no request 17"):
        Trace.open(small_trace(tmp_path / "a.trace")).read(17)


def test_a_trace_can_be_sent_to_another_process(tmp_path: Path) -> None:
    trace = Trace.open(small_trace(tmp_path / "a.trace"))
    assert_same(pickle.loads(pickle.dumps(trace)).read(1), trace.read(1))


def test_the_digest_is_the_hash_in_meta_json_and_of_the_rest_of_it(tmp_path: Path) -> None:
    one = Trace.open(small_trace(tmp_path / "a.trace"))
    other = Trace.open(small_trace(tmp_path / "b.trace", requests=3))
    assert one.digest == json.loads((one.path / "meta.json").read_text())["sha256"]
    assert one.digest != other.digest


def test_reading_one_request_reads_only_its_rows(tmp_path: Path) -> None:
    path = small_trace(tmp_path / "a.trace")
    column = pq.ParquetFile(path / "tokens.parquet").metadata.row_group(2).column(4)
    damaged = bytearray((path / "tokens.parquet").read_bytes())
    damaged[column.data_page_offset + column.total_compressed_size - 3] ^= 0x10
    (path / "tokens.parquet").write_bytes(damaged)
    trace = Trace.open(path)
    trace.read(1)
    trace.read(3)
    with pytest.raises(TraceError, match=r"tokens\.parquet: cannot be read: .*CRC"):
        trace.read(2)
