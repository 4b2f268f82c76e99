"""Traces whose tokens may skip layers, with the state of the engine's own cache."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from policies.executed import demands_of, tokens_by_expert
from tests.support.trace_helpers import assert_same, random_request, small_meta, small_trace, write_trace
from traces.__main__ import main
from traces.format.checks import check
from traces.format.reader import Trace
from traces.format.schema import TraceError

META = small_meta(all_executed=False, gate_complete=False, residency=True, lookahead=(), embedding=False)


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace.open(write_trace(tmp_path / "a.trace", META, [[random_request(number, META) for number in range(3)]]))


def test_rows_read_as_they_were_written_also_once_decoded(trace: Trace) -> None:
    assert check(trace.path) == []
    for source in (trace, trace.with_decoded(trace.decoded())):
        for number in trace.request_ids:
            assert_same(source.read(number), random_request(number, META)[1])


def test_pandas_reads_minus_one_and_the_engines_residency(trace: Trace) -> None:
    rows = pd.read_parquet(trace.path / "tokens.parquet")
    experts, residency = (np.stack(rows[name]) for name in ("experts", "residency"))
    assert (experts == -1).any()
    assert ((experts == -1) == (residency == -1)).all()
    assert set(np.unique(residency)) == {-1, 0, 1, 2}


def test_demands_and_counts_leave_out_what_was_not_executed(trace: Trace) -> None:
    recorded = trace.read(1)
    seen: dict[tuple[int, int, int], int] = {}
    for iteration, layers in zip(recorded.iteration.tolist(), recorded.experts.tolist(), strict=True):
        for layer, experts in enumerate(layers):
            for expert in experts:
                if expert >= 0:
                    seen[iteration, layer, expert] = seen.get((iteration, layer, expert), 0) + 1
    demanded = set(zip(*(axis.tolist() for axis in np.nonzero(trace.demands(1))), strict=True))
    assert demanded == seen.keys()
    assert np.array_equal(demands_of(recorded.experts, recorded.iteration, 6), trace.demands(1))
    counts = tokens_by_expert(recorded.experts, 6)
    assert counts.sum() == sum(seen.values())
    for layer, expert in np.ndindex(3, 6):
        assert counts[layer, expert] == sum(n for (_, *place), n in seen.items() if place == [layer, expert])


def test_a_trace_that_needs_neither_says_nothing_of_them(tmp_path: Path) -> None:
    text = (small_trace(tmp_path / "a.trace") / "meta.json").read_text()
    assert not any(key in text for key in ("all_executed", "residency", "expert_bytes_by_layer"))


def first_layer(one: Any) -> None:
    one.experts[6, 0] = one.residency[6, 0] = -1
    one.gate[6, 0] = 0


def whole_iteration(one: Any) -> None:
    one.experts[:5, 2] = one.residency[:5, 2] = -1
    one.gate[:5, 2] = 0


def too_low(one: Any) -> None:
    one.experts[7, 1, 0] = -2


def too_sure(one: Any) -> None:
    one.residency[7, 1, 0] = 3


def without_expert(one: Any) -> None:
    one.residency[7, 1, 1] = -1


def gate_of_none(one: Any) -> None:
    one.experts[0, 1] = one.residency[0, 1] = -1
    one.gate[0, 1] = 1 / 8


WRONG: dict[Callable[[Any], None], str] = {
    first_layer: "row 6, layer 0, field experts: must contain an expert in the first layer, not [-1, -1]",
    whole_iteration: "row 0, layer 2, field experts: must contain an expert for at least one token of the iteration",
    too_low: "row 7, layer 1, field experts: must be from -1 to 5, not -2",
    too_sure: "row 7, layer 1, field residency: must be 0, 1 or 2 for an executed expert and -1 elsewhere",
    without_expert: "row 7, layer 1, field residency: must be 0, 1 or 2 for an executed expert and -1 elsewhere",
    gate_of_none: "row 0, layer 1, field gate: must",
}


@pytest.mark.parametrize("spoil", WRONG)
def test_mistakes_are_reported(spoil: Callable[[Any], None], tmp_path: Path) -> None:
    info, recorded = random_request(0, META)
    spoil(recorded)
    with pytest.raises(TraceError) as caught:
        write_trace(tmp_path / "a.trace", META, [[(info, recorded)]])
    assert WRONG[spoil] in str(caught.value)


def test_minus_one_needs_a_trace_that_says_so(tmp_path: Path) -> None:
    strict = replace(META, all_executed=True, residency=False)
    info, recorded = random_request(0, META)
    with pytest.raises(TraceError, match=r"layer \d, field experts: must be from 0 to 5, not -1"):
        write_trace(tmp_path / "a.trace", strict, [[(info, replace(recorded, residency=None))]])


def test_no_prompts_of_other_lengths_are_made_of_them(trace: Trace, capsys: pytest.CaptureFixture[str]) -> None:
    workload = trace.path.with_name("w.parquet")
    pd.DataFrame({"arrival_s": [0.0, 1.0], "prompt_tokens": [3, 9], "output_tokens": [2, 4]}).to_parquet(workload)
    out = trace.path.with_name("b.trace")
    assert main(["fit", str(trace.path), "--workload", str(workload), "--out", str(out)]) == 2
    assert "tokens of its prefills skip layers (experts -1)" in capsys.readouterr().err
