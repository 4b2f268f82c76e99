"""A trace read from arrays equals the trace read from its files."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from policies.types import RecordedRequest
from tests.support.trace_helpers import assert_same, change_values, small_trace
from traces.format.reader import RecordedFuture, Requests, Trace
from traces.format.schema import TraceError

WITH_ALL = {"lookahead": (1, 2), "embedding": True, "prefill": True}
BARE = {"lookahead": (), "embedding": False, "prefill": False}


@pytest.fixture(params=[WITH_ALL, BARE], ids=["with all", "bare"])
def trace(request: pytest.FixtureRequest, tmp_path: Path) -> Trace:
    return Trace.open(small_trace(tmp_path / "small.trace", 6, **request.param))


def arrays_of(recorded: RecordedRequest) -> dict[str, Any]:
    names = ("iteration", "position", "token", "gate", "experts", "embedding")
    arrays = {name: getattr(recorded, name) for name in names} | dict(recorded.lookahead)
    return {name: array for name, array in arrays.items() if array is not None}


def assert_equal(one: Trace, other: Trace) -> None:
    assert one.request_ids == other.request_ids
    for request in one.request_ids:
        found, expected = one.read(request), other.read(request)
        assert_same(found, expected)
        for name, array in arrays_of(found).items():
            assert array.flags.c_contiguous == arrays_of(expected)[name].flags.c_contiguous, name
        assert one.positions(request) == other.positions(request)
        assert one.rows_of(request) == other.rows_of(request)
        np.testing.assert_array_equal(one.demands(request), other.demands(request))


def test_what_is_read_from_arrays_is_what_the_files_say(trace: Trace) -> None:
    assert_equal(trace.with_decoded(trace.decoded()), trace)


def test_it_is_the_same_without_embeddings(trace: Trace) -> None:
    both = trace.with_decoded(trace.decoded()).without_embeddings(), trace.without_embeddings()
    assert_equal(*both)
    assert both[0].read(0).embedding is None


def test_requests_and_future_are_read_from_arrays_alone(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = trace.with_decoded(trace.decoded())

    def refused(*given: Any) -> Any:
        raise AssertionError("read a file")

    for name in ("read_group", "read_embeddings"):
        monkeypatch.setattr(f"traces.format.reader.{name}", refused)
    assert [each.request for each in Requests(decoded, [4, 1])] == [4, 1]
    assert RecordedFuture(decoded).demands(3).any()
    with pytest.raises(AssertionError, match="read a file"):
        list(Requests(trace))


def test_how_large_the_arrays_of_the_rows_are_is_known_before(trace: Trace) -> None:
    rows = {name: array for name, array in trace.decoded().items() if not name.startswith("embedding")}
    assert sum(array.nbytes for array in rows.values()) == trace.decoded_bytes


def test_a_request_that_is_not_there_is_the_same_error(trace: Trace) -> None:
    decoded = trace.with_decoded(trace.decoded())
    said = []
    for one in (trace, decoded):
        with pytest.raises(UserError) as caught:
            one.read(77)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_another_process_gets_the_trace_without_the_arrays(trace: Trace) -> None:
    decoded = trace.with_decoded(trace.decoded())
    sent = pickle.dumps(decoded)
    assert len(sent) < 1000
    assert_equal(pickle.loads(sent), trace)


def test_a_broken_row_is_the_same_error(trace: Trace) -> None:
    def broken(experts: Any) -> None:
        experts[-1, 0] = 99

    change_values(trace.path, "tokens.parquet", "experts", broken)
    opened, said = Trace.open(trace.path), []
    for read in (lambda: list(opened.iter()), opened.decoded):
        with pytest.raises(TraceError) as caught:
            read()
        said.append(str(caught.value))
    assert said[0] == said[1]
