"""Requests fitted to a workload consist of recorded rows only."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.types import RecordedRequest
from sim.__main__ import main as sim
from tests.support.trace_helpers import Pair, content, random_request, small_meta, write_trace
from traces.__main__ import main
from traces.analysis.naturalness import naturalness_of
from traces.format.checks import check
from traces.format.reader import Trace
from traces.workloads.arrivals import Workload
from traces.workloads.fitting import Fitter, plan_fit
from traces.workloads.workload_files import read_workload, write_workload

# Prompts shorter, equal to, and longer than all that is recorded; outputs of one token, one more, and many.
PROMPTS = [1, 5, 8, 13, 40, 100, 3, 64, 20, 2]
OUTPUTS = [1, 4, 2, 50, 9, 1, 30, 7, 3, 6]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recorded trace and a workload."""
    folder = tmp_path_factory.mktemp("made")
    recorded_trace(folder / "source.trace")
    arrival_s = np.arange(len(PROMPTS)) * 0.3
    lengths = {"prompt_tokens": np.array(PROMPTS), "output_tokens": np.array(OUTPUTS)}
    write_workload(folder / "w.parquet", Workload(arrival_s=arrival_s, **lengths, source="hand-made"), {})
    return folder


@pytest.fixture
def workload(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made / "w.parquet", tmp_path))


def recorded_pairs(meta: Any) -> list[Pair]:
    """Six requests with prompts of 4 to 9 tokens and 2 to 7 iterations."""
    return [random_request(request, meta, prompt=4 + request, output=2 + request) for request in range(6)]


def recorded_trace(path: Path, **changes: Any) -> Path:
    meta = small_meta(**({"kind": "captured"} | changes))
    return write_trace(path, meta, [recorded_pairs(meta)])


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "source.trace", tmp_path / "source.trace"))


@pytest.fixture(scope="module")
def fitted(made: Path) -> Path:
    """The trace fitted to the whole workload."""
    return fit(made / "source.trace", made / "w.parquet")


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


def test_every_row_is_a_recorded_one_with_all_that_belongs_to_it(source: Path, fitted: Path) -> None:
    recorded, known = {one.request: one for one in Trace.open(source).iter()}, origins(source)
    for one in Trace.open(fitted).iter():
        for row, (request, at) in enumerate(places(one, known)):
            was = recorded[request]
            assert one.token[row] == was.token[at]
            np.testing.assert_array_equal(one.experts[row], was.experts[at])
            np.testing.assert_array_equal(one.lookahead[1][row], was.lookahead[1][at])
            np.testing.assert_array_equal(one.embedding[row], was.embedding[at])
        np.testing.assert_array_equal(one.position, np.arange(len(one.position)))


def uses_of(fitted: Path, source: Path) -> dict[bool, Counter[tuple[int, int]]]:
    """How often each recorded row is in a fitted trace, prompts (False) and decode iterations (True) apart."""
    known = origins(source)
    uses: dict[bool, Counter[tuple[int, int]]] = {False: Counter(), True: Counter()}
    for one in Trace.open(fitted).iter():
        for place, iteration in zip(places(one, known), one.iteration, strict=True):
            uses[bool(iteration)][place] += 1
    return uses


@pytest.mark.parametrize("requests", [2, 4, 10])
def test_no_row_is_used_again_while_another_is_unused(source: Path, workload: Path, requests: int) -> None:
    """Request r has 4 + r rows of prefill and 1 + r decode iterations: 39 and 21 rows in all."""
    fitted = fit(source, workload, "fitted.trace", "--requests", requests)
    for decode, available in ((False, 39), (True, 21)):
        uses = uses_of(fitted, source)[decode]
        times = [*uses.values(), *[0] * (available - len(uses))]
        assert max(times) - min(times) <= 1


def test_a_row_is_never_of_the_other_phase(source: Path, fitted: Path) -> None:
    uses = uses_of(fitted, source)
    assert all(row < 4 + request for request, row in uses[False])
    assert all(row >= 4 + request for request, row in uses[True])


@pytest.mark.parametrize("requests", [2, 10])
def test_the_share_of_repeated_rows_is_what_is_counted_said_and_noted(
    source: Path, workload: Path, requests: int, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = fit(source, workload, "fitted.trace", "--requests", requests)
    said = capsys.readouterr().err
    noted = Trace.open(fitted).meta.generation
    found = naturalness_of(Trace.open(fitted))
    assert found.prompts is not None
    for decode, name, measured in ((True, "decode", found.decode), (False, "prompt", found.prompts)):
        uses = uses_of(fitted, source)[decode]
        share = 1 - len(uses) / sum(uses.values())
        assert noted[f"fit_repeated_{name}_rows"] == pytest.approx(share)
        assert measured.repeated_rows == pytest.approx(share)
        assert f"{share:.1%} of {sum(uses.values()):,} {'decode rows' if decode else 'rows of prompts'}" in said


def test_repeated_rows_are_a_warning(source: Path, workload: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted = fit(source, workload)
    assert "REPETITIVE: 80% of the decode rows occurred before, 85% of the prompts' rows" in capsys.readouterr().err
    assert sim(["run", str(fitted), "--policy", "lru", "--cache-experts", "8"]) == 0
    assert "fitted.trace (FITTED, REPETITIVE routing of small)" in capsys.readouterr().out


def pieces_of(found: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """A chain cut where the next row is not the one that followed when it was recorded."""
    cut: list[list[tuple[int, int]]] = []
    for request, row in found:
        if cut and cut[-1][-1] == (request, row - 1):
            cut[-1].append((request, row))
        else:
            cut.append([(request, row)])
    return cut


def test_a_chain_stays_with_its_source_while_that_has_unused_rows(tmp_path: Path) -> None:
    """Three sources of two requests: those of source n are n and n + 3, with 1 + n and 4 + n decode iterations."""
    source = Trace.open(recorded_trace(tmp_path / "source.trace"))
    outputs = [4, 3, 5, 2, 9]  # 18 decode iterations of 21
    lengths = {"prompt_tokens": np.full(5, 4), "output_tokens": np.array(outputs)}
    plan = plan_fit(source, Workload(arrival_s=np.arange(5.0), **lengths, source="mine"), seed=2)
    left = {f"source {n}": (1 + n) + (4 + n) for n in range(3)}
    for serving, output in zip(plan.servings, outputs, strict=True):
        own = sum(piece.rows for piece in serving.decodes if source.infos[piece.request].source == serving.source)
        assert own == min(left[serving.source], output - 1)
        assert sum(piece.rows for piece in serving.decodes) == output - 1
        for piece in serving.decodes:
            left[source.infos[piece.request].source] -= piece.rows
        ids = [piece.request for piece in serving.decodes]
        assert len(set(ids)) == len(ids)


def test_unused_decode_iterations_of_the_prompts_last_request_follow_it(source: Path, workload: Path) -> None:
    known, used = origins(source), set()
    for one in Trace.open(fit(source, workload, "fitted.trace", "--requests", 3)).iter():
        found = places(one, known)
        prompt, decode = found[: int((one.iteration == 0).sum())], found[int((one.iteration == 0).sum()) :]
        last = prompt[-1][0]
        if decode and last not in used:
            assert decode[0] == (last, 4 + last)
        used |= {request for request, _ in decode}


def test_a_long_output_is_a_chain_of_whole_requests(tmp_path: Path) -> None:
    """20 of 21 decode iterations: every piece but the last is all that was recorded of its request."""
    source = recorded_trace(tmp_path / "source.trace")
    lengths = {"prompt_tokens": np.array([5]), "output_tokens": np.array([21])}
    wanted = Workload(arrival_s=np.array([0.0]), **lengths, source="mine")
    trace = Trace.open(source)
    info, one = Fitter(trace, plan_fit(trace, wanted, seed=0)).fitted(0, wanted)
    decode = places(one, origins(source))[5:]
    pieces = pieces_of(decode)
    assert (info.prompt_tokens, info.output_tokens, len(decode), len(pieces)) == (5, 21, 20, 6)
    for piece in pieces[:-1]:
        request = piece[0][0]
        assert piece == [(request, 4 + request + step) for step in range(1 + request)]


def test_without_prefill_there_is_none_and_outputs_count_from_the_first_decode(tmp_path: Path, workload: Path) -> None:
    source = recorded_trace(
        tmp_path / "source.trace", prefill=False, gate_complete=False, embedding=False, lookahead=()
    )
    trace, known = Trace.open(fit(source, workload)), origins(source)
    assert [one.prompt_tokens for one in trace.infos.values()] == [None] * len(PROMPTS)
    assert [one.output_tokens for one in trace.infos.values()] == OUTPUTS
    for one in trace.iter():
        assert len(places(one, known)) == OUTPUTS[one.request]
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
    expected = f"error: {none}: no request has a decode iteration, so the trace cannot be fitted\n"
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
    reported = meta.generation
    assert reported["fit_trace_sha256"] == Trace.open(source).digest
    assert reported["fit_workload"] == "4 of 10 requests of hand-made at 2/s"
    assert (
        reported["fit_seed"],
        reported["fit_requests"],
        reported["fit_rate"],
        reported["fit_max_prompt_tokens"],
    ) == (3, 4, 2, 2048)
    assert "no row is used again while others are unused" in (meta.notes or "")
    assert "hand-made" in (meta.notes or "")
    assert meta.model == "small"


def test_what_was_synthetic_stays_synthetic(tmp_path: Path, workload: Path) -> None:
    source = recorded_trace(tmp_path / "source.trace", kind="synthetic")
    assert Trace.open(fit(source, workload)).meta.kind == "synthetic"


def test_tables_and_pictures_say_that_a_trace_is_fitted(fitted: Path, tmp_path: Path, capsys: Any) -> None:
    results = tmp_path / "results"
    assert main(["info", str(fitted)]) == 0
    assert "FITTED" in capsys.readouterr().out
    assert sim(["run", str(fitted), "--policy", "lru", "--cache-experts", "8", "--out", str(results)]) == 0
    assert "fitted.trace (FITTED, REPETITIVE routing of small)" in capsys.readouterr().out
    assert sim(["plot", str(results), "--out", str(tmp_path / "a.svg")]) == 0
    assert "Simulated: FITTED, REPETITIVE routing of small" in (tmp_path / "a.svg").read_text()


def test_memory_does_not_grow_with_the_requests_that_were_read(
    source: Path, workload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traces.workloads.fitting._CACHE_BYTES", 2_000)
    trace = Trace.open(source)
    fitter = Fitter(trace, plan_fit(trace, read_workload(workload), seed=0))
    for request in [0, 1, 2, 3, 4, 5, 0, 0]:
        fitter._read(request)
        assert fitter._cached_bytes <= 2_000 or len(fitter._cached) == 1
    assert list(fitter._cached)[-1] == 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--max-prompt-tokens", "0"], "--max-prompt-tokens: must be at least 1, not 0"),
        (["--seed", "-1"], "--seed: must be at least 0, not -1"),
        (["--requests", "99"], "--requests: must be from 1 to 10, the size of hand-made, not 99"),
    ],
)
def test_a_mistake_is_reported_in_one_line(
    source: Path, workload: Path, words: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(source.with_name("a.trace"))
    assert main(["fit", str(source), "--workload", str(workload), "--out", out, *words]) == 2
    assert capsys.readouterr().err == f"error: {error}\n"
    assert sorted(file.name for file in source.parent.iterdir()) == ["source.trace", "w.parquet"]
