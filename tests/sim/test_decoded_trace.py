"""Which traces are decoded once and kept, and when they are decoded anew."""

from pathlib import Path
from typing import Any

import pytest

from sim.artefacts import Artefacts
from sim.decoded_trace import with_decoded
from tests.support.run_helpers import SHAPE
from tests.support.trace_helpers import assert_same, change_values, small_trace
from traces.format.reader import Trace
from traces.format.schema import TraceError


@pytest.fixture
def artefacts(tmp_path: Path) -> Artefacts:
    return Artefacts(tmp_path / "artefacts", "code")


def decoding(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The traces that are decoded from now on."""
    decoded, decode = [], Trace.decoded

    def noted(trace: Trace) -> object:
        decoded.append(trace.path)
        return decode(trace)

    monkeypatch.setattr(Trace, "decoded", noted)
    return decoded


def test_a_trace_is_decoded_once_wherever_it_is_stored(
    artefacts: Artefacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [small_trace(tmp_path / f"{name}.trace", 3, shape=SHAPE) for name in "ab"]
    noted = decoding(monkeypatch)
    traces = [with_decoded(Trace.open(path), artefacts) for path in (*paths, paths[0])]
    assert noted == [paths[0]]
    for trace, path in zip(traces, (*paths, paths[0]), strict=True):
        assert trace.path == path
        for request in trace.request_ids:
            assert_same(trace.read(request), Trace.open(path).read(request))


def test_another_trace_or_other_code_decodes_again(
    artefacts: Artefacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [small_trace(tmp_path / f"{requests}.trace", requests, shape=SHAPE) for requests in (3, 4)]
    noted = decoding(monkeypatch)
    for path in paths:
        assert len(with_decoded(Trace.open(path), artefacts)) == int(path.stem)
    with_decoded(Trace.open(paths[0]), Artefacts(artefacts.folder, "edited code"))
    assert noted == [*paths, paths[0]]


def test_a_large_trace_or_one_that_cannot_be_kept_is_streamed(
    artefacts: Artefacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = Trace.open(small_trace(tmp_path / "a.trace", 3, shape=SHAPE))
    noted = decoding(monkeypatch)
    assert with_decoded(trace, Artefacts(None, "code")) is trace
    monkeypatch.setattr("sim.decoded_trace.LARGEST_BYTES", trace.decoded_bytes - 1)
    assert with_decoded(trace, artefacts) is trace
    assert noted == []
    monkeypatch.setattr("sim.decoded_trace.LARGEST_BYTES", trace.decoded_bytes)
    assert with_decoded(trace, artefacts) is not trace


def test_a_folder_that_cannot_be_written_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    refused = Artefacts(tmp_path / "file" / "artefacts", "code")
    path = small_trace(tmp_path / "a.trace", 3, shape=SHAPE)
    noted = decoding(monkeypatch)
    for _ in range(2):
        assert_same(with_decoded(Trace.open(path), refused).read(0), Trace.open(path).read(0))
    assert noted == [path]


def test_a_broken_trace_is_not_kept(artefacts: Artefacts, tmp_path: Path) -> None:
    def broken(experts: Any) -> None:
        experts[-1, 0] = 99

    path = small_trace(tmp_path / "a.trace", 3, shape=SHAPE)
    change_values(path, "tokens.parquet", "experts", broken)
    with pytest.raises(TraceError, match="must be from 0 to 7, not 99"):
        with_decoded(Trace.open(path), artefacts)
    assert list(artefacts) == []


def test_a_file_that_was_changed_since_is_still_refused(artefacts: Artefacts, tmp_path: Path) -> None:
    path = small_trace(tmp_path / "a.trace", 3, shape=SHAPE)
    with_decoded(Trace.open(path), artefacts)
    change_values(path, "tokens.parquet", "token", lambda tokens: tokens.reverse(), rehash=False)
    with pytest.raises(TraceError, match=r"tokens.parquet: must have [0-9]+ bytes"):
        with_decoded(Trace.open(path), artefacts)
