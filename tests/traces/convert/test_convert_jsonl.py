"""Route logs become traces with the same rows, and misplaced rows are reported with their line."""

import json
import random
import tracemalloc
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from sim.__main__ import main as sim
from tests.support.convert_helpers import SHAPE, convert, converted, recorded_pairs, reported, rows_of, write_lines
from tests.support.slow_cases import slow_but
from tests.support.trace_helpers import assert_same, content, small_meta
from traces.__main__ import main
from traces.convert.conversion_settings import LogReading
from traces.convert.jsonl import Lines
from traces.convert.routing_row import ROW_PARTS, Row
from traces.convert.row_assembly import Assembler
from traces.format.faults import request_faults

# A prompt of two tokens and one decode step, by hand; 3 layers.
BY_HAND = [
    {"req_id": "a", "token_idx": 0, "layer": 0, "topk_ids": [5, 1], "topk_weights": [0.75, 0.25]},
    {"req_id": "a", "token_idx": 1, "layer": 0, "topk_ids": [2, 0], "topk_weights": [0.5, 0.5]},
    {"req_id": "a", "token_idx": 0, "layer": 1, "topk_ids": [0, 1], "topk_weights": [0.5, 0.5]},
    {"req_id": "a", "token_idx": 1, "layer": 1, "topk_ids": [4, 3], "topk_weights": [0.5, 0.25]},
    {"req_id": "a", "token_idx": 0, "layer": 2, "topk_ids": [3, 2], "topk_weights": [0.5, 0.5]},
    {"req_id": "a", "token_idx": 1, "layer": 2, "topk_ids": [1, 5], "topk_weights": [0.5, 0.5]},
    {"req_id": "a", "token_idx": 2, "layer": 0, "topk_ids": [0, 2], "topk_weights": [0.5, 0.5]},
    {"req_id": "a", "token_idx": 2, "layer": 1, "topk_ids": [1, 3], "topk_weights": [0.5, 0.5]},
    {"req_id": "a", "token_idx": 2, "layer": 2, "topk_ids": [2, 4], "topk_weights": [0.5, 0.5]},
]


def test_a_log_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = converted("jsonl", write_lines(tmp_path / "log.jsonl", BY_HAND))
    assert (trace.meta.kind, trace.meta.prefill, trace.meta.gate_complete) == ("imported", True, False)
    one = trace.read(0)
    assert one.source == "log/a"
    assert one.iteration.tolist() == [0, 0, 1]  # the two tokens that came layer by layer are one pass
    assert one.position.tolist() == [0, 1, 2]
    assert one.token.tolist() == [0, 0, 0]
    assert one.experts.tolist() == [
        [[5, 1], [0, 1], [3, 2]],
        [[2, 0], [4, 3], [1, 5]],
        [[0, 2], [1, 3], [2, 4]],
    ]
    assert one.gate[0, 0].tolist() == [0, 0.25, 0, 0, 0, 0.75]
    assert one.gate[1, 1].tolist() == pytest.approx([0, 0, 0, 1 / 3, 2 / 3, 0], abs=5e-4)
    info = trace.infos[0]
    assert (info.prompt_tokens, info.output_tokens) == (2, 2)
    notes = trace.meta.notes or ""
    assert "converted from log.jsonl, SHA-256 " in notes
    assert "; 1 layers' weights that did not sum to 1 were divided by their sum; token ids were not" in notes
    assert "1 layers' weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("order", "prefill"),
    slow_but([*product(["token", "layer"], [True, False])], ("token", False), ("layer", True)),
)
def test_what_was_exported_comes_back_the_same(tmp_path: Path, order: str, prefill: bool) -> None:
    pairs = recorded_pairs(60, prefill=prefill)  # more than one part
    trace = converted("jsonl", write_lines(tmp_path / "log.jsonl", rows_of(pairs, order)))
    assert trace.meta.prefill is prefill
    assert trace.request_ids == list(range(60))
    for info, recorded in pairs:
        assert_same(trace.read(info.request), recorded)
        found = trace.infos[info.request]
        assert (found.prompt_tokens, found.output_tokens) == (info.prompt_tokens, info.output_tokens)


def test_full_gates_and_rows_of_all_layers_come_back_the_same(tmp_path: Path) -> None:
    pairs = recorded_pairs(gate_complete=True)
    rows = [
        {
            "prompt_id": f"r{info.request}",
            "source": info.source,
            "step": int(one.iteration[n]),
            "token_id": int(one.token[n]),
            "experts": one.experts[n].tolist(),
            "router_probs": one.gate[n].tolist(),
        }
        for info, one in pairs
        for n in range(len(one.token))
    ]
    trace = converted("jsonl", write_lines(tmp_path / "log.jsonl", rows))
    assert trace.meta.gate_complete
    for info, recorded in pairs:
        assert_same(trace.read(info.request), recorded)


def test_phases_mark_the_prefill(tmp_path: Path) -> None:
    pairs = recorded_pairs()
    rows = rows_of(pairs)
    for row in rows:
        row["phase"] = "decode" if row.pop("iteration") else "prefill"
    trace = converted("jsonl", write_lines(tmp_path / "log.jsonl", rows))
    for info, recorded in pairs:
        assert_same(trace.read(info.request), recorded)


def test_without_weights_the_executed_experts_share_evenly(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "topk_weights"} for row in BY_HAND]
    trace = converted("jsonl", write_lines(tmp_path / "log.jsonl", rows))
    assert trace.read(0).gate[0, 0].tolist() == [0, 0.5, 0, 0, 0, 0.5]
    assert "no weights were recorded: every executed expert has 1/K" in (trace.meta.notes or "")


def test_names_of_fields_and_of_the_first_layer_can_be_given(tmp_path: Path) -> None:
    rows = [
        {"seq": row["req_id"], "tok": row["token_idx"], "l": row["layer"] + 1, "who": row["topk_ids"]}
        for row in BY_HAND
    ]
    given = ["request=seq", "position=tok", "layer=l", "experts=who"]
    fields = [word for pair in given for word in ("--field", pair)]
    trace = converted("jsonl", write_lines(tmp_path / "log.jsonl", rows), *fields, "--first-layer", "1")
    assert trace.read(0).experts[1].tolist() == [[2, 0], [4, 3], [1, 5]]


def test_a_part_of_the_rows_can_be_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the step of an engine that counts on from request to request."""
    file = write_lines(tmp_path / "log.jsonl", [{**row, "step": 70 + row["token_idx"]} for row in BY_HAND])
    line = reported(capsys, lambda: convert("jsonl", file))
    assert line == f"{file}: line 1, field step: a request must start at iteration 1, not 70"
    trace = converted("jsonl", file, "--field", "iteration=")
    assert trace.read(0).iteration.tolist() == [0, 0, 1]


def in_passes() -> list[dict[str, Any]]:
    """A log as of vLLM's patched layer: a profiling run, then two prompts one at a time, indices anew in every pass."""
    meta = {"type": "meta", "model_id": "small", "layers_logged": [0, 1, 2], "top_k": 2}
    rows = []
    for number, tokens in enumerate([4, 2, 1, 1, 3, 1]):
        for layer in range(3):
            for index in range(tokens):
                ids = [(number + layer + index) % 6, (number + layer + index + 1) % 6]
                rows.append({"type": "route", "req_id": "r0", "token_idx": index, "layer": layer, "topk_ids": ids})
    return [meta, *rows]


def test_passes_of_one_request_at_a_time_become_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_lines(tmp_path / "log.jsonl", in_passes())
    trace = converted("jsonl", file, "--index", "pass", "--warmup-passes", "1")
    assert [trace.read(request).iteration.tolist() for request in (0, 1)] == [[0, 0, 1, 2], [0, 0, 0, 1]]
    assert [trace.read(request).position.tolist() for request in (0, 1)] == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert [trace.infos[request].source for request in (0, 1)] == ["log/r0#0", "log/r0#1"]
    # The first kept pass is number 1: token 1 of layer 2 was given expert 1 + 2 + 1.
    assert trace.read(0).experts[1, 2].tolist() == [4, 5]
    assert "12 warm-up rows were dropped" in capsys.readouterr().err
    assert "12 warm-up rows were dropped" in (trace.meta.notes or "")


def test_positions_that_restart_need_the_option_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_lines(tmp_path / "log.jsonl", in_passes())
    line = reported(capsys, lambda: convert("jsonl", file))
    assert line.startswith(f"{file}: line 14, field layer: layer 0 of this token is already in line 2")
    assert "set --index to pass" in line


def test_declared_warm_up_rows_are_dropped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warm = [{**row, "req_id": "w", "warmup": True} for row in BY_HAND]
    profile = [{**row, "req_id": "p", "phase": "profile", "run": 0} for row in BY_HAND[:4]]
    plain = converted("jsonl", write_lines(tmp_path / "log.jsonl", BY_HAND)).read(0)
    file = write_lines(tmp_path / "log.jsonl", warm + profile + BY_HAND)
    capsys.readouterr()
    for option in ("phase=profile", "run=0"):
        trace = converted("jsonl", file, "--warmup", option)
        assert_same(trace.read(0), plain)
        assert len(trace) == 1
        assert "13 warm-up rows were dropped" in capsys.readouterr().err


def test_responses_of_vllm_become_requests(tmp_path: Path) -> None:
    pairs = recorded_pairs(2)
    rows = []
    for info, one in pairs:
        experts = one.experts.tolist()
        choice = {"index": 0, "token_ids": one.token[5:].tolist(), "routed_experts": experts[5:]}
        response = {"id": f"cmpl-{info.request}", "prompt_token_ids": one.token[:5].tolist(), "choices": [choice]}
        rows.append(response | {"prompt_routed_experts": experts[:5]})
    offline = [
        {
            "request_id": row["id"],
            "prompt_token_ids": row["prompt_token_ids"],
            "token_ids": row["choices"][0]["token_ids"],
            "routed_experts": row["prompt_routed_experts"] + row["choices"][0]["routed_experts"],
        }
        for row in rows
    ]
    for some in (rows, offline):
        trace = converted("jsonl", write_lines(tmp_path / "log.jsonl", some))
        for info, one in pairs:
            found = trace.read(info.request)
            assert found.source == f"log/cmpl-{info.request}"
            for name in ("iteration", "position", "token", "experts"):
                np.testing.assert_array_equal(getattr(found, name), getattr(one, name))


# ---- what is refused -------------------------------------------------------------------------------------------------


def put(row: int, key: str, value: Any) -> Callable[[list[Any]], None]:
    return lambda rows: rows[row].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda rows: rows.pop(4), "line 5, field layer: must be 1, the next layer of this token, not 2"),
        (lambda rows: rows.pop(3), "line 4, field layer: must be 0, the first layer of a new token, not 1"),
        (
            lambda rows: rows.insert(3, rows[2]),
            "line 4, field layer: layer 2 of this token is already in line 3",
        ),
        (lambda rows: rows.reverse(), "line 1, field layer: must be 0, the first layer of a new token, not 2"),
        (put(3, "position", 2), "line 4, field position: must be 1, the next position, not 2"),
        (put(3, "position", "1"), "line 4, field position: must be from 0 to 2147483647, not '1'"),
        (put(0, "position", 2**31), "line 1, field position: must be from 0 to 2147483647, not 2147483648"),
        (put(3, "position", None), "line 4, field position: must be in all rows or in none"),
        (put(0, "position", None), "line 2, field position: must be in all rows or in none"),
        (put(3, "iteration", None), "line 4, field iteration: must be in all rows or in none"),
        (put(1, "layer", 3), "line 2, field layer: must be from 0 to 2, not 3"),
        (put(1, "layer", True), "line 2, field layer: must be from 0 to 2, not True"),
        (put(4, "experts", [1, 2, 3]), "line 5, field experts: must have 2 entries, not 3"),
        (put(4, "experts", 7), "line 5, field experts: must be a list of 2, not 7"),
        (put(4, "experts", None), "line 5, field experts: is missing"),
        (put(4, "layer", None), "line 5, field layer: must be in all rows or in none"),
        (put(4, "request", None), "line 5, field request: must be in all rows or in none"),
        (put(4, "experts", [1, 6]), "line 5, field experts: must be from 0 to 5, not 6"),
        (put(4, "experts", [-1, 2]), "line 5, field experts: must be from 0 to 5, not -1"),
        (put(4, "experts", [2, 2]), "line 5, field experts: must be distinct, not [2, 2]"),
        (put(4, "experts", [1, 2.0]), "line 5, field experts: must be whole numbers, not 2.0"),
        (put(4, "experts", [1, "2"]), "line 5, field experts: must be whole numbers, not '2'"),
        (put(4, "weights", [0.5]), "line 5, field weights: must have 2 entries, not 1"),
        (put(4, "weights", [1.5, -0.5]), "line 5, field weights: must be positive, not -0.5"),
        (put(4, "weights", [1e308, 1e308]), "line 5, field weights: must have a finite sum above 0, not inf"),
        (put(4, "weights", [float("nan"), 1]), "line 5, field weights: must be positive, not nan"),
        (put(4, "weights", [float("inf"), 1]), "line 5, field weights: must be finite and at least 0, not inf"),
        (put(4, "weights", None), "line 5, field weights: must be in all rows or in none"),
        (put(4, "token", 40), "line 5, field token: must be 3, as in line 4 of the same token, not 40"),
        (put(0, "source", "\ud800"), "line 1, field source: contains half a surrogate pair, which is not a character"),
        (put(24, "request", [0]), "line 25, field request: must be a string or a whole number, not [0]"),
    ],
)
def test_a_row_out_of_place_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[list[Any]], Any], line: str
) -> None:
    rows = rows_of(recorded_pairs(1)) + [{**row, "request": 9} for row in rows_of(recorded_pairs(1))]
    for row in rows:
        row["token"] = 3
    change(rows)
    file = write_lines(tmp_path / "log.jsonl", rows)
    found = reported(capsys, lambda: convert("jsonl", file))
    assert found.startswith(f"{file}: {line}")
    assert [each.name for each in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_request_with_separated_rows_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = rows_of(recorded_pairs(1)), [{**row, "request": 9} for row in rows_of(recorded_pairs(1))]
    file = write_lines(tmp_path / "log.jsonl", [*first, *second, first[0]])
    line = reported(capsys, lambda: convert("jsonl", file))
    assert line.startswith(
        f"{file}: line 49, field request: request 0 continues after another request began; sort the file"
    )
    assert [each.name for each in tmp_path.iterdir()] == ["log.jsonl"]


@pytest.mark.parametrize("order", ["token", "layer"])
def test_no_row_can_be_lost_doubled_or_moved_unnoticed(tmp_path: Path, order: str) -> None:
    """Every single mutation, reported with a line at the place or behind it."""
    rows = rows_of(recorded_pairs(2), order)
    lines = [Row(line=number, **row) for number, row in enumerate(rows, start=1)]
    file = tmp_path / "log.jsonl"

    def refused(changed: list[Row]) -> str | None:
        try:
            list(Assembler(file, SHAPE).requests(changed))
        except Exception as error:
            return str(error)
        return None

    assert refused(lines) is None
    rng = random.Random(3)
    for place in range(len(lines)):
        # Without the last decode step's last layer, or any other row, a request is not whole.
        assert refused(lines[:place] + lines[place + 1 :]), f"row {place} was lost"
        assert refused(lines[:place] + lines[place:][:1] * 2 + lines[place + 1 :]), f"row {place} was doubled"
        if place and lines[place].position == lines[place - 1].position:
            swapped = [*lines[: place - 1], lines[place], lines[place - 1], *lines[place + 1 :]]
            assert refused(swapped), f"row {place} was swapped"
        other = rng.choice([one for one in lines if one.request != lines[place].request])
        moved = lines[:place] + lines[place + 1 :]
        moved.insert(moved.index(other), lines[place])
        assert refused(moved), f"row {place} was moved"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 7) | st.integers() | st.floats() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=1),
    max_leaves=6,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    place=st.integers(0, 23),
    key=st.sampled_from([*ROW_PARTS, "warmup", "type", "choices", "prompt_routed_experts", "token_ids"]),
    value=JSON,
    index=st.sampled_from([False, True]),
)
@example(place=0, key="experts", value=[[None, []], None], index=False)
@example(place=0, key="weights", value=[True, 65520], index=False)  # beyond float16
def test_any_value_in_any_field_is_accepted_or_reported(
    tmp_path: Path, place: int, key: str, value: Any, index: bool
) -> None:
    """Never anything but a request whose rows a trace would take, or a `UserError`."""
    pairs = recorded_pairs(1)
    rows = rows_of(pairs)
    rows[place][key] = value
    file = write_lines(tmp_path / "log.jsonl", rows)
    try:
        lines = Lines(file, SHAPE, LogReading(index="pass" if index else "request"))
        assembler = Assembler(file, SHAPE, names=lines.names)
        found = list(assembler.requests(lines))
    except UserError:
        return
    meta = small_meta(embedding=False, lookahead=(), gate_complete=assembler.has["gate"], prefill=assembler.prefill)
    assert [fault for info, recorded in found for fault in request_faults(recorded, info, meta)] == []


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (["", "{}"], "line 2, field experts: is missing; it has no fields"),
        (["[1]"], "line 1: is not a JSON object"),
        (['{"experts": '], "line 1: is not JSON: "),
        ([], "has no row"),
        (['{"warmup": true}'], "has no row"),
        (['{"type": "meta", "top_k": 4}'], "line 1, field top_k: must be 2 for small, not 4"),
        (
            ['{"type": "meta", "layers_logged": [0]}'],
            "line 1, field layers_logged: must list all 3 layers",
        ),
        (['{"choices": []}'], "line 1, field choices: must be a list of one choice"),
        (['{"choices": [7]}'], "line 1, field choices: must be a list of one choice"),
        (['{"experts": [[[1, 0]], 7]}'], "line 1, field experts: must have 3 entries, not 1"),
        (['{"experts": [[[1, 0]]], "token_ids": 5}'], "line 1, field token_ids: must be a list"),
        (['{"choices": [{"routed_experts": "UEs="}]}'], "line 1, field routed_experts: must be nested lists"),
    ],
)
def test_what_is_no_log_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[str], line: str
) -> None:
    file = write_lines(tmp_path / "log.jsonl", lines)
    assert f"{file}: {line}" in reported(capsys, lambda: convert("jsonl", file))
    assert [each.name for each in tmp_path.iterdir()] == ["log.jsonl"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--field", "expert=e"], "--field: unknown part of a row 'expert'; did you mean 'experts'?"),
        (["--field", "experts"], "--field: must be NAME=KEY, not 'experts'"),
        (["--field", "experts=e"], "line 1, field e: is missing; it has "),
        (["--warmup-passes", "2"], "--warmup-passes: needs --index pass"),
        (["--max-requests", "0"], "--max-requests: must be at least 1, not 0"),
        (["--shape", "layers=3"], "--shape: needs experts, top_k, hidden, "),
        (["--shape", "layer=3"], "--shape: unknown size 'layer'; did you mean 'layers'?"),
        (["--shape", "layers=x"], "--shape: layers must be a number, not 'x'"),
    ],
)
def test_mistakes_on_the_command_line_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], line: str
) -> None:
    file = write_lines(tmp_path / "log.jsonl", BY_HAND)
    assert line in reported(capsys, lambda: convert("jsonl", file, *options))


# ---- long files, interruptions, use ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    rows = rows_of(recorded_pairs(1))

    def log(requests: int) -> Path:
        with (tmp_path / f"{requests}.jsonl").open("w") as out:
            for request in range(requests):
                out.writelines(json.dumps({**row, "request": request}) + "\n" for row in rows)
        return tmp_path / f"{requests}.jsonl"

    def peak(file: Path) -> int:
        tracemalloc.start()
        lines = Lines(file, SHAPE, LogReading())
        count = sum(1 for _ in Assembler(file, SHAPE, names=lines.names).requests(lines))
        assert f"{count}.jsonl" == file.name
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    small, large = log(20), log(1000)
    peak(small)  # whatever is made once
    # Ids that were seen are kept, a hundred bytes each.
    assert peak(large) < peak(small) + 1000 * 200


def test_an_interrupted_conversion_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from traces.format.writer import TraceWriter

    file = write_lines(tmp_path / "log.jsonl", rows_of(recorded_pairs(60)))  # two parts
    whole = content(converted("jsonl", file).path)
    write_part = TraceWriter.write_part

    def interrupted(writer: TraceWriter, number: int, *rest: Any) -> None:
        if number == 1:
            raise KeyboardInterrupt
        write_part(writer, number, *rest)

    monkeypatch.setattr(TraceWriter, "write_part", interrupted)
    assert convert("jsonl", file, name="again.trace") == 130
    monkeypatch.setattr(TraceWriter, "write_part", write_part)
    assert convert("jsonl", file, name="again.trace") == 0
    assert content(tmp_path / "again.trace") == whole


def test_max_requests_takes_the_first_requests(tmp_path: Path) -> None:
    pairs = recorded_pairs(5)
    trace = converted("jsonl", write_lines(tmp_path / "log.jsonl", rows_of(pairs)), "--max-requests", "2")
    assert trace.request_ids == [0, 1]


def test_a_converted_log_can_be_simulated_and_analysed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = converted("jsonl", write_lines(tmp_path / "log.jsonl", rows_of(recorded_pairs(10))))
    options = ["--cache-experts", "9", "--policy", "lru", "--policy", "finemoe", "--check", "--machine", "rtx3090"]
    capsys.readouterr()
    assert sim(["run", str(trace.path), *options]) == 0
    assert "(imported routing of small)" in capsys.readouterr().out
    assert main(["info", str(trace.path)]) == 0
    assert "converted from log.jsonl" in capsys.readouterr().out
