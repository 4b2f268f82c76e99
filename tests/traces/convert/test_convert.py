"""Imported routing equals its source arrays, and mistakes in them are reported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.shared_data import GPT_OSS
from tests.support.trace_helpers import content
from traces.__main__ import main
from traces.format.checks import check
from traces.format.reader import Trace

Arrays = dict[str, Any]


def small_arrays(requests: int = 3, longest: int = 4) -> Arrays:
    """Routing of gpt-oss-20b's shape: requests of 2, 3, 4 … `longest` decode steps, and again."""
    rng = np.random.default_rng(5)
    offsets = np.concatenate([[0], np.cumsum(np.arange(requests) % (longest - 1) + 2)])
    steps = int(offsets[-1])
    weights = rng.random((steps, 24, 4)) + 0.1
    return {
        "experts": np.argsort(rng.random((steps, 24, 32)), axis=2)[:, :, :4].astype(np.uint8),
        "probs": (weights / weights.sum(-1, keepdims=True)).astype(np.float16),
        "offsets": offsets,
        "token": rng.integers(0, 201088, steps).astype(np.int32),
        "source": np.array([f"set/{number}" for number in range(requests)]),
    }


def convert(tmp_path: Path, arrays: Arrays, *more: str) -> int:
    np.savez_compressed(tmp_path / "routing.npz", **arrays)
    out = str(tmp_path / "out.trace")
    return main(["convert", "npz", str(tmp_path / "routing.npz"), "--model", "gpt-oss-20b", "--out", out, *more])


def assert_holds(trace: Trace, arrays: Arrays, requests: int) -> None:
    """Compare with the arrays entry by entry of the sparse form, which the trace does not have."""
    assert trace.request_ids == list(range(requests))
    for recorded in trace.iter():
        start, stop = arrays["offsets"][recorded.request : recorded.request + 2]
        assert recorded.source == arrays["source"][recorded.request]
        np.testing.assert_array_equal(recorded.experts, arrays["experts"][start:stop])
        np.testing.assert_array_equal(recorded.token, arrays["token"][start:stop])
        assert recorded.iteration.tolist() == list(range(1, stop - start + 1))
        # The K weights, in the executed order, and nothing beside them.
        rows, layers = np.ogrid[: stop - start, :24]
        for k in range(4):
            found = recorded.gate[rows, layers, recorded.experts[:, :, k]]
            np.testing.assert_array_equal(found, arrays["probs"][start:stop, :, k])
        assert (np.count_nonzero(recorded.gate, axis=2) == 4).all()
        assert recorded.embedding is None


def test_nothing_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = small_arrays(60, longest=8)  # more than one part
    assert convert(tmp_path, arrays, "--license", "Apache-2.0") == 0
    assert capsys.readouterr().out == f"{tmp_path}/out.trace\n"
    trace = Trace.open(tmp_path / "out.trace")
    assert_holds(trace, arrays, 60)
    meta = trace.meta
    assert (meta.kind, meta.model, meta.gate_complete, meta.prefill) == ("imported", "gpt-oss-20b", False, False)
    assert (meta.embedding, meta.lookahead, meta.license) == (False, (), "Apache-2.0")
    assert trace.requests["output_tokens"].tolist() == (np.arange(60) % 7 + 2).tolist()
    assert trace.requests["prompt_tokens"].isna().all()
    assert check(trace.path) == []


def test_a_folder_works_like_its_file_and_max_requests_takes_the_first(tmp_path: Path) -> None:
    arrays = small_arrays()
    np.savez(tmp_path / "routing.npz", **arrays)
    out = tmp_path / "two.trace"
    assert (
        main(["convert", "npz", str(tmp_path), "--model", "gpt-oss-20b", "--out", str(out), "--max-requests", "2"]) == 0
    )
    assert_holds(Trace.open(out), arrays, 2)


def test_of_long_requests_the_first_tokens_can_be_taken_alone(tmp_path: Path) -> None:
    arrays = small_arrays()  # of 2, 3 and 4 steps
    assert convert(tmp_path, arrays, "--max-tokens", "3") == 0
    trace = Trace.open(tmp_path / "out.trace")
    assert_holds(trace, arrays | {"offsets": np.array([0, 2, 5, 8, 9])}, 3)  # the last step is beyond
    assert "of each request the first 3 tokens at most" in str(trace.meta.notes)
    assert check(trace.path) == []


def test_an_interrupted_conversion_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from traces.format.writer import TraceWriter

    arrays = small_arrays(120)
    assert convert(tmp_path, arrays) == 0
    whole = content(tmp_path / "out.trace")
    write_part = TraceWriter.write_part

    def interrupted(writer: TraceWriter, number: int, *rest: Any) -> None:
        if number == 1:
            raise KeyboardInterrupt
        write_part(writer, number, *rest)

    monkeypatch.setattr(TraceWriter, "write_part", interrupted)
    assert convert(tmp_path, arrays, "--overwrite") == 130
    assert content(tmp_path / "out.trace") == whole
    seen = []

    def seeing(writer: TraceWriter, number: int, *rest: Any) -> None:
        seen.append(number)
        write_part(writer, number, *rest)

    monkeypatch.setattr(TraceWriter, "write_part", seeing)
    assert convert(tmp_path, arrays, "--overwrite") == 0
    assert seen == [1, 2]
    assert content(tmp_path / "out.trace") == whole


def put(name: str, at: Any, value: Any) -> Callable[[Arrays], None]:
    return lambda arrays: arrays[name].__setitem__(at, value)


def swap(name: str, change: Callable[[Any], Any]) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.__setitem__(name, change(arrays[name]))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda arrays: arrays.pop("probs"), "field probs: is missing"),
        (swap("probs", lambda a: a.astype(np.float32)), "field probs: must be float16, not float32"),
        (
            swap("probs", lambda a: a[:, :, :3]),
            "field probs: shape must be [9, 24, 4] for gpt-oss-20b, not [9, 24, 3]",
        ),
        (
            swap("experts", lambda a: a[:, :23]),
            "field experts: shape must be [9, 24, 4] for gpt-oss-20b, not [9, 23, 4]",
        ),
        (swap("experts", lambda a: a.astype(float)), "field experts: must be integers, not float64"),
        (swap("token", lambda a: a[:-1]), "field token: shape must be [9] for gpt-oss-20b, not [8]"),
        (swap("source", lambda a: a[:-1]), "field source: shape must be [3] for gpt-oss-20b, not [2]"),
        (swap("source", lambda a: np.arange(3)), "field source: must be text, not int64"),
        (swap("source", lambda a: a.astype(object)), "is not an npz archive of plain arrays: "),
        (put("offsets", 0, 1), "field offsets: must run from 0 to 9, not from 1 to 9"),
        (put("offsets", -1, 8), "field offsets: must run from 0 to 9, not from 0 to 8"),
        (put("offsets", 2, 2), "row 2, field offsets: must be greater than in the row before, not 2"),
        (put("experts", (4, 3, 1), 32), "row 4, layer 3, field experts: must be from 0 to 31, not 32"),
        (
            put("experts", (4, 3), [1, 2, 1, 3]),
            "row 4, layer 3, field experts: must be distinct, not [1, 2, 1, 3]",
        ),
        (put("token", 5, 201088), "row 5, field token: must be from 0 to 201087, not 201088"),
        (put("token", 5, -1), "row 5, field token: must be from 0 to 201087, not -1"),
        (put("probs", (6, 2, 0), np.nan), "row 6, layer 2, field probs: must be positive and finite, not nan"),
        (put("probs", (6, 2), [1, 0, 0, 0]), "row 6, layer 2, field probs: must be positive and finite, not 0.0"),
        (
            put("probs", (6, 2), [0.5, 0.25, 0.25, 0.25]),
            "row 6, layer 2, field probs: must sum to 1 within 0.005, not 1.25",
        ),
    ],
)
def test_what_is_wrong_with_the_arrays_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Arrays], Any], line: str
) -> None:
    arrays = small_arrays()
    change(arrays)
    assert convert(tmp_path, arrays) == 2
    found = capsys.readouterr().err
    assert found.startswith(f"error: {tmp_path}/routing.npz: {line}")
    assert found.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["routing.npz"]


@pytest.mark.parametrize("cut", [0, 10, 3000])
def test_a_broken_archive_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], cut: int) -> None:
    np.savez(tmp_path / "whole.npz", **small_arrays())
    (tmp_path / "routing.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:cut])
    out = str(tmp_path / "a.trace")
    assert main(["convert", "npz", str(tmp_path), "--model", "gpt-oss-20b", "--out", out]) == 2
    found = capsys.readouterr().err
    assert found.startswith(f"error: {tmp_path}/routing.npz: is not an npz archive of plain arrays: ")
    assert found.count("\n") == 1


def test_mistakes_on_the_command_line_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "a.trace")]
    assert main(["convert", "npz", str(tmp_path / "no.npz"), "--model", "gpt-oss-20b", *out]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/no.npz: does not exist\n"
    assert main(["convert", "npz", str(tmp_path), "--model", "gpt-oss", *out]) == 2
    assert capsys.readouterr().err == (
        "error: --model: unknown model 'gpt-oss'; did you mean 'gpt-oss-20b'? (any other model needs --shape)\n"
    )
    assert convert(tmp_path, small_arrays(), "--max-requests", "0") == 2
    assert capsys.readouterr().err == "error: --max-requests: must be at least 1, not 0\n"
    assert convert(tmp_path, small_arrays()) == 0
    assert convert(tmp_path, small_arrays()) == 2
    assert "out.trace exists already; choose another name, or replace it with --overwrite" in capsys.readouterr().err


@pytest.mark.skipif(not GPT_OSS.exists(), reason=f"{GPT_OSS} is not there; FINEMOE_DATA names another place")
def test_the_real_routing_of_gpt_oss_is_converted(tmp_path: Path) -> None:
    out = tmp_path / "gpt-oss.trace"
    words = ["convert", "npz", str(GPT_OSS), "--model", "gpt-oss-20b", "--max-requests", "3", "--out", str(out)]
    assert main(words) == 0
    with np.load(GPT_OSS) as archive:
        assert_holds(Trace.open(out), {name: archive[name] for name in archive.files}, 3)


@pytest.mark.slow
@pytest.mark.skipif(not GPT_OSS.exists(), reason=f"{GPT_OSS} is not there; FINEMOE_DATA names another place")
def test_the_real_routing_of_gpt_oss_is_converted_whole(tmp_path: Path) -> None:
    out = tmp_path / "gpt-oss.trace"
    assert main(["convert", "npz", str(GPT_OSS), "--model", "gpt-oss-20b", "--out", str(out)]) == 0
    with np.load(GPT_OSS) as archive:
        arrays = {name: archive[name] for name in archive.files}
    trace = Trace.open(out)
    assert sum(trace.rows_of(request) for request in trace.request_ids) == 68_249
    assert_holds(trace, arrays, 200)
