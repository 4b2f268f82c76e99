"""Recorded requests at the lengths of a workload: every row is one that was recorded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.types import RecordedRequest
from sim.__main__ import main as sim
from tests.support.trace_helpers import Pair, content, random_request, small_meta, write_trace
from traces.__main__ import main
from traces.format.checks import check
from traces.format.reader import Trace
from traces.workloads.arrivals import Workload
from traces.workloads.fitting import Fitter
from traces.workloads.workload_files import read_workload, write_workload

# Prompts shorter, equal to, and longer than all that is recorded; outputs of one token, one more, and many.
PROMPTS = [1, 5, 8, 13, 40, 100, 3, 64, 20, 2]
OUTPUTS = [1, 4, 2, 50, 9, 1, 30, 7, 3, 6]


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    arrival_s = np.arange(len(PROMPTS)) * 0.3
    lengths = {"prompt_tokens": np.array(PROMPTS), "output_tokens": np.array(OUTPUTS)}
    write_workload(tmp_path / "w.parquet", Workload(arrival_s=arrival_s, **lengths, source="hand-made"), {})
    return tmp_path / "w.parquet"


def recorded_pairs(meta: Any) -> list[Pair]:
    """Six requests with prompts of 4 to 9 tokens and 2 to 7 iterations."""
    return [random_request(request, meta, prompt=4 + request, output=2 + request) for request in range(6)]


def recorded_trace(path: Path, **changes: Any) -> Path:
    meta = small_meta(**({"kind": "captured"} | changes))
    return write_trace(path, meta, [recorded_pairs(meta)])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return recorded_trace(tmp_path / "source.trace")


def fit(source: Path, workload: Path, name: str = "fitted.trace", *more: Any) -> Path:
    out = source.with_name(name)
    words = ["fit", source, "--workload", workload, "--out", out, *more]
    assert main([str(word) for word in words]) == 0
    return out


def origins(source: Path) -> dict[bytes, tuple[int, int]]:
    """Where each recorded row is, found by its gates: request and row."""
    return {
        gate.tobytes(): (one.request, row) for one in Trace.open(source).iter() for row, gate in enumerate(one.gate)
    }


def places(fitted: RecordedRequest, known: dict[bytes, tuple[int, int]]) -> list[tuple[int, int]]:
    return [known[gate.tobytes()] for gate in fitted.gate]


@pytest.mark.parametrize("cap", [2048, 8, 1])
def test_lengths_and_arrivals_are_the_workloads_after_the_cap(source: Path, workload: Path, cap: int) -> None:
    trace, wanted = (
        Trace.open(fit(source, workload, "fitted.trace", "--max-prompt-tokens", cap)),
        read_workload(workload),
    )
    infos = list(trace.infos.values())
    assert [one.prompt_tokens for one in infos] == [min(tokens, cap) for tokens in PROMPTS]
    assert [one.output_tokens for one in infos] == OUTPUTS
    assert [one.arrival_s for one in infos] == wanted.arrival_s.tolist()
    for one in trace.iter():
        assert int((one.iteration == 0).sum()) == min(PROMPTS[one.request], cap)
        assert int(one.iteration[-1]) + 1 == OUTPUTS[one.request]
    assert check(trace.path) == []


def test_every_row_is_a_recorded_one_with_all_that_belongs_to_it(source: Path, workload: Path) -> None:
    recorded, known = {one.request: one for one in Trace.open(source).iter()}, origins(source)
    for one in Trace.open(fit(source, workload)).iter():
        for row, (request, at) in enumerate(places(one, known)):
            was = recorded[request]
            assert one.token[row] == was.token[at]
            np.testing.assert_array_equal(one.experts[row], was.experts[at])
            np.testing.assert_array_equal(one.lookahead[1][row], was.lookahead[1][at])
            np.testing.assert_array_equal(one.embedding[row], was.embedding[at])
        np.testing.assert_array_equal(one.position, np.arange(len(one.position)))


def test_prompts_are_whole_prefills_in_a_row_but_for_the_last_which_is_cut(source: Path, workload: Path) -> None:
    known = origins(source)
    for one in Trace.open(fit(source, workload)).iter():
        left = places(one, known)[: PROMPTS[one.request]]
        served = []
        while left:
            request = left[0][0]
            # The prefill of request r has 4 + r rows.
            whole = [(request, row) for row in range(4 + request)]
            assert left[: len(whole)] == whole[: len(left)]
            left = left[len(whole) :]
            served.append(request)
        # None is drawn again before all six were: 39 rows in all, so the longest prompts need some twice.
        for start in range(0, len(served), 6):
            assert len(set(served[start : start + 6])) == len(served[start : start + 6])


def test_decode_iterations_are_those_of_the_prompts_last_request_repeated_from_the_first(
    source: Path, workload: Path
) -> None:
    known = origins(source)
    for one in Trace.open(fit(source, workload)).iter():
        found = places(one, known)
        prompt, decode = found[: PROMPTS[one.request]], found[PROMPTS[one.request] :]
        request = prompt[-1][0]
        # Request r has 4 + r rows of prefill, then 1 + r decode iterations.
        expected = [(request, 4 + request + step % (1 + request)) for step in range(OUTPUTS[one.request] - 1)]
        assert decode == expected
        assert one.source == f"source {request % 3}"


def test_a_row_worked_out_by_hand(source: Path) -> None:
    """Prefills of 6, 4 and 9 rows were drawn first: 8 rows are 6 and 2, and 2 decode iterations make 1 of request 0."""
    fitter = Fitter(Trace.open(source), seed=0)
    fitter._drawn = lambda row: iter([2, 0, 5])  # type: ignore[method-assign]
    found = fitter.serving(7, prompt_tokens=8, output_tokens=4)
    assert (found.prefills, found.decoder, found.decode_rows) == ([(2, 6), (0, 2)], 0, 3)
    wanted = Workload(
        arrival_s=np.array([0.0]), prompt_tokens=np.array([8]), output_tokens=np.array([4]), source="mine"
    )
    info, one = fitter.fitted(0, wanted)
    pairs = dict(enumerate(recorded for _, recorded in recorded_pairs(small_meta(kind="captured"))))
    # Request 0 has rows 0–3 of prefill and row 4, its only decode iteration, which is repeated thrice.
    expected = [*pairs[2].token[:6], *pairs[0].token[[0, 1, 4, 4, 4]]]
    assert one.token.tolist() == expected
    assert one.iteration.tolist() == [0] * 8 + [1, 2, 3]
    assert (info.prompt_tokens, info.output_tokens) == (8, 4)


def test_without_prefill_there_is_none_and_outputs_count_from_the_first_decode(tmp_path: Path, workload: Path) -> None:
    source = recorded_trace(
        tmp_path / "source.trace", prefill=False, gate_complete=False, embedding=False, lookahead=()
    )
    trace, known = Trace.open(fit(source, workload)), origins(source)
    assert [one.prompt_tokens for one in trace.infos.values()] == [None] * len(PROMPTS)
    assert [one.output_tokens for one in trace.infos.values()] == OUTPUTS
    for one in trace.iter():
        request = places(one, known)[0][0]
        assert places(one, known) == [(request, step % (2 + request)) for step in range(OUTPUTS[one.request])]
        assert one.iteration.tolist() == list(range(1, OUTPUTS[one.request] + 1))
    assert check(trace.path) == []


def test_requests_without_a_decode_iteration_serve_none(tmp_path: Path, workload: Path, capsys: Any) -> None:
    meta = small_meta(kind="captured")
    pairs = [random_request(request, meta, output=1 + (request == 1)) for request in range(4)]
    source = write_trace(tmp_path / "source.trace", meta, [pairs])
    known = origins(source)
    for one in Trace.open(fit(source, workload)).iter():
        assert {request for request, _ in places(one, known)} == {1}
    none = write_trace(tmp_path / "none.trace", meta, [pairs[:1]])
    capsys.readouterr()
    assert main(["fit", str(none), "--workload", str(workload), "--out", str(tmp_path / "b.trace")]) == 2
    expected = f"error: {none}: no request has a decode iteration, so none can be fitted\n"
    assert capsys.readouterr().err == expected


def test_equal_seeds_give_equal_bytes_and_others_do_not(source: Path, workload: Path) -> None:
    one, same, other = (
        fit(source, workload, f"{n}.trace", "--seed", seed) for n, seed in [("a", 1), ("b", 1), ("c", 2)]
    )
    assert content(one) == content(same)
    assert content(one)["tokens.parquet"] != content(other)["tokens.parquet"]


def test_an_interrupted_fit_goes_on_to_the_same_bytes(
    source: Path, workload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = content(fit(source, workload, "whole.trace"))
    monkeypatch.setattr("traces.workloads.fitted_trace._PART", 3)
    fitted, calls = Fitter.fitted, []

    def failing(self: Fitter, row: int, wanted: Workload) -> Any:
        calls.append(row)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return fitted(self, row, wanted)

    monkeypatch.setattr(Fitter, "fitted", failing)
    words = ["fit", str(source), "--workload", str(workload), "--out", str(source.with_name("again.trace"))]
    assert main(words) == 130
    assert main(words) == 0
    assert calls[8:] == [6, 7, 8, 9]  # two parts of three were there
    assert content(source.with_name("again.trace")) == whole


def test_the_meta_says_what_was_fitted_to_what_and_how(source: Path, workload: Path) -> None:
    meta = Trace.open(fit(source, workload, "fitted.trace", "--seed", 3, "--requests", 4, "--rate", 2)).meta
    assert meta.kind == "fitted"
    told = meta.generation
    assert told["fit_trace_sha256"] == Trace.open(source).digest
    assert told["fit_workload"] == "4 of 10 requests of hand-made at 2/s"
    assert (told["fit_seed"], told["fit_requests"], told["fit_rate"], told["fit_max_prompt_tokens"]) == (3, 4, 2, 2048)
    assert "one after the other, the last one cut at the wanted length" in (meta.notes or "")
    assert "hand-made" in (meta.notes or "")
    assert meta.model == "small"


def test_what_was_synthetic_stays_synthetic(tmp_path: Path, workload: Path) -> None:
    source = recorded_trace(tmp_path / "source.trace", kind="synthetic")
    assert Trace.open(fit(source, workload)).meta.kind == "synthetic"


def test_tables_and_pictures_say_that_a_trace_is_fitted(source: Path, workload: Path, capsys: Any) -> None:
    fitted, results = fit(source, workload), source.with_name("results")
    assert main(["info", str(fitted)]) == 0
    assert "FITTED" in capsys.readouterr().out
    assert sim(["run", str(fitted), "--policy", "lru", "--cache-experts", "8", "--out", str(results)]) == 0
    assert "fitted.trace (FITTED routing of small)" in capsys.readouterr().out
    assert sim(["plot", str(results), "--out", str(source.with_name("a.svg"))]) == 0
    assert "Simulated: FITTED routing of small" in source.with_name("a.svg").read_text()


def test_memory_does_not_grow_with_the_requests_that_were_read(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traces.workloads.fitting._HELD_BYTES", 2_000)
    fitter = Fitter(Trace.open(source), seed=0)
    for request in [0, 1, 2, 3, 4, 5, 0, 0]:
        fitter._read(request)
        assert fitter._held_bytes <= 2_000 or len(fitter._held) == 1
    assert list(fitter._held)[-1] == 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--max-prompt-tokens", "0"], "--max-prompt-tokens: must be at least 1, value 0"),
        (["--seed", "-1"], "--seed: must be at least 0, value -1"),
        (["--requests", "99"], "--requests: must be from 1 to 10, all of hand-made, value 99"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    source: Path, workload: Path, words: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(source.with_name("a.trace"))
    assert main(["fit", str(source), "--workload", str(workload), "--out", out, *words]) == 2
    assert capsys.readouterr().err == f"error: {error}\n"
    assert sorted(file.name for file in source.parent.iterdir()) == ["source.trace", "w.parquet"]
