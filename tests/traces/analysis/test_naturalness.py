"""How natural a trace is, against counts by brute force and the recall of the model cards."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.types import RecordedRequest
from tests.support.shared_data import GPT_OSS
from tests.support.trace_helpers import Pair, random_request, small_meta, small_shape, write_trace
from traces.__main__ import main
from traces.analysis import naturalness as module
from traces.analysis.naturalness import Naturalness, naturalness_of, warning
from traces.format.reader import Trace
from traces.pocket_training.recall import Routing, recall

DEEP = small_shape(layers=5, experts=6)
GOOD = {
    "rows": 5000,
    "sampled_tokens": 4000,
    "distinct_tokens": 0.3,
    "repeated_4grams": 0.1,
    "repeated_rows": 0.0,
    "nearest_map_recall": 0.7,
    "stored_maps": 1000,
    "searched_maps": 1000,
}


def pairs_of(count: int, meta: Any, prompt: int = 7, output: int = 9) -> list[Pair]:
    return [random_request(request, meta, prompt=prompt, output=output + request % 3) for request in range(count)]


def copied(pair: Pair, request: int) -> Pair:
    """The same rows under another number."""
    return replace(pair[0], request=request), replace(pair[1], request=request)


def trace_of(path: Path, pairs: Sequence[Pair], meta: Any) -> Trace:
    return Trace.open(write_trace(path, meta, [pairs]))


def measured(path: Path, pairs: Sequence[Pair], meta: Any) -> Naturalness:
    return naturalness_of(trace_of(path, pairs, meta))


def decode_of(recorded: RecordedRequest) -> list[int]:
    return np.flatnonzero(recorded.iteration > 0).tolist()


@pytest.mark.parametrize("prefill", [True, False])
def test_repetition_is_what_a_loop_over_rows_counts(tmp_path: Path, prefill: bool) -> None:
    """Requests 6 and 7 are requests 1 and 4 once more; tokens are of 3 words, so that text repeats too."""
    meta = small_meta(kind="captured", shape=small_shape(layers=5, vocab=3), prefill=prefill)
    pairs = pairs_of(6, meta)
    pairs += [copied(pairs[1], 6), copied(pairs[4], 7)]
    found = measured(tmp_path / "a.trace", pairs, meta)
    assert (found.prompts is None) == (not prefill)
    for figures, decode in ((found.decode, True), (found.prompts, False)):
        if figures is None:
            continue
        rows, words, grams = [], [], []
        for _, one in pairs:
            places = [place for place in range(len(one.token)) if (place in decode_of(one)) == decode]
            text = [int(one.token[place]) for place in places]
            rows += [(one.token[at], one.experts[at].tobytes(), one.gate[at].tobytes()) for at in places]
            words += text
            grams += [tuple(text[at : at + 4]) for at in range(len(text) - 3)]
        assert figures.rows == figures.sampled_tokens == len(rows)
        assert figures.repeated_rows == pytest.approx(1 - len(set(rows)) / len(rows))
        assert figures.repeated_rows > 0
        assert figures.distinct_tokens == pytest.approx(len(set(words)) / len(words))
        assert figures.repeated_4grams == pytest.approx(1 - len(set(grams)) / len(grams))


def test_rows_that_differ_in_one_gate_are_two(tmp_path: Path) -> None:
    meta = small_meta(kind="captured", shape=DEEP)
    info, recorded = random_request(0, meta, prompt=2, output=3)
    gate = recorded.gate.copy()
    gate[-1, 4, [0, 1]] = gate[-1, 4, [1, 0]]
    assert gate[-1, 4, 0] != gate[-1, 4, 1]
    other = replace(info, request=1), replace(recorded, request=1, gate=gate)
    found = measured(tmp_path / "a.trace", [(info, recorded), other], meta)
    assert found.decode.rows == 4
    assert found.decode.repeated_rows == 1 / 4


@pytest.mark.parametrize("phase", ["decode", "prompts"])
def test_recall_is_that_of_the_model_cards(tmp_path: Path, phase: str) -> None:
    """Of each of the three sources every other request is stored; all maps fit into the store."""
    meta = small_meta(kind="captured", shape=DEEP)
    pairs = pairs_of(14, meta)
    found = getattr(measured(tmp_path / "a.trace", pairs, meta), phase)

    def routing(recorded: RecordedRequest) -> Routing:
        rows = (recorded.iteration > 0) == (phase == "decode")
        token, gate, experts = recorded.token[rows], recorded.gate[rows], recorded.experts[rows]
        return Routing(token, gate, experts, 0, {3: experts[:, :-3]})

    by_source: dict[str, list[Routing]] = {}
    for _, recorded in pairs:
        by_source.setdefault(recorded.source, []).append(routing(recorded))
    stored = [each for some in by_source.values() for each in some[0::2]]
    searched = [each for some in by_source.values() for each in some[1::2]]
    (card,) = recall(stored, searched, [3])
    assert found.nearest_map_recall == pytest.approx(card.fine, abs=1e-12)
    assert found.stored_maps == sum(len(each.token) for each in stored)
    assert found.searched_maps == sum(len(each.token) for each in searched)


def test_where_no_source_has_two_requests_sources_search_among_others(tmp_path: Path) -> None:
    meta = small_meta(kind="captured", shape=DEEP)
    own = [
        (replace(info, source=f"{info.request}"), replace(one, source=f"{info.request}"))
        for info, one in pairs_of(4, meta)
    ]
    found = measured(tmp_path / "a.trace", own, meta)
    assert found.decode.nearest_map_recall is not None
    assert found.decode.stored_maps == sum(len(decode_of(own[at][1])) for at in (0, 2))
    assert list(found.unknown) == []


def test_long_traces_are_sampled_and_equal_however_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCKS", 3)
    monkeypatch.setattr(module, "BLOCK", 4)
    monkeypatch.setattr(module, "MAPS", 10)
    meta = small_meta(kind="captured", shape=DEEP)
    trace = trace_of(tmp_path / "a.trace", pairs_of(8, meta, output=12), meta)
    found = naturalness_of(trace)
    assert found.decode.rows == sum(trace.decode_rows_of(request) for request in trace.request_ids)
    assert 3 <= found.decode.sampled_tokens <= 12
    assert (found.decode.stored_maps, found.decode.searched_maps) == (10, 10)
    assert naturalness_of(trace.with_decoded(trace.decoded())) == found
    monkeypatch.setattr(module, "_ROWS", 2)  # in other pieces
    assert naturalness_of(trace) == found


def test_what_cannot_be_measured_is_null_with_its_reason(tmp_path: Path) -> None:
    deep = small_meta(kind="imported", shape=DEEP, embedding=False)
    flat, synthetic = replace(deep, shape=small_shape(layers=3)), replace(deep, kind="synthetic")
    nameless = [(info, replace(one, token=np.zeros_like(one.token))) for info, one in pairs_of(4, deep)]
    no_tokens = measured(tmp_path / "a.trace", nameless, deep)
    assert (no_tokens.decode.distinct_tokens, no_tokens.decode.repeated_4grams) == (None, None)
    assert no_tokens.decode.repeated_rows == 0
    assert list(no_tokens.unknown) == ["token ids were not recorded"]
    shallow = measured(tmp_path / "b.trace", pairs_of(8, flat), flat)
    assert shallow.decode.nearest_map_recall is None
    assert list(shallow.unknown) == ["recall looks 3 layers ahead, but there are only 3 layers"]
    alone = measured(tmp_path / "c.trace", pairs_of(1, deep), deep)
    assert alone.decode.nearest_map_recall is None
    assert len(alone.unknown) == 1
    drawn = measured(tmp_path / "d.trace", pairs_of(8, synthetic), synthetic)
    assert drawn.decode.distinct_tokens is None
    assert list(drawn.unknown) == ["token ids are drawn, not text"]
    for found in (no_tokens, shallow, alone, drawn):
        assert warning(json.loads(json.dumps(found.to_data())), {}) is None


def test_a_figure_beyond_its_limit_is_a_warning_and_others_are_none() -> None:
    good = {"decode": GOOD, "prompts": GOOD | {"repeated_4grams": 0.9}, "unknown": []}
    assert warning(good, {}) is None
    beyond = {
        "distinct_tokens": (0.08, "8% of the decode tokens are distinct"),
        "repeated_4grams": (0.65, "65% of the decode 4-grams occurred before"),
        "repeated_rows": (0.5, "50% of the decode rows occurred before"),
        "nearest_map_recall": (0.87, "nearest-map recall is 0.87"),
    }
    for name, (value, said) in beyond.items():
        assert warning(good | {"decode": GOOD | {name: value}}, {}) == said
    few = GOOD | {name: value for name, (value, _) in beyond.items()} | {"sampled_tokens": 255, "searched_maps": 255}
    assert warning(good | {"decode": few}, {}) == "50% of the decode rows occurred before"


def test_prompts_that_begin_alike_are_a_warning_only_in_fitted_traces() -> None:
    alike = {"decode": GOOD, "prompts": GOOD | {"repeated_rows": 0.3}, "unknown": []}
    assert warning(alike, {}) is None
    assert warning(alike, {"fit_repeated_prompt_rows": 0.04}) is None
    assert warning(alike, {"fit_repeated_prompt_rows": 0.2}) == "20% of the prompts' rows occurred before"


def test_info_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = small_meta(kind="captured", shape=DEEP)
    pairs = pairs_of(4, meta)
    path = write_trace(tmp_path / "a.trace", meta, [[*pairs, *(copied(pair, 4 + at) for at, pair in enumerate(pairs))]])
    assert main(["info", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["naturalness"]["decode"]["repeated_rows"] == 0.5
    assert said["warning"] == "50% of the decode rows occurred before"
    assert main(["info", str(path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "50.0% of 70 rows occurred before" in printed
    assert "REPETITIVE: 50% of the decode rows occurred before" in printed


@pytest.mark.skipif(not GPT_OSS.exists(), reason=f"{GPT_OSS} is not there; FINEMOE_DATA names another place")
def test_real_routing_is_natural(tmp_path: Path) -> None:
    out = tmp_path / "gpt-oss.trace"
    words = ["convert", "npz", str(GPT_OSS), "--model", "gpt-oss-20b", "--max-requests", "8", "--out", str(out)]
    assert main(words) == 0
    found = naturalness_of(Trace.open(out)).to_data()
    assert found["decode"]["nearest_map_recall"] == pytest.approx(0.6, abs=0.1)
    assert warning(found, {}) is None
