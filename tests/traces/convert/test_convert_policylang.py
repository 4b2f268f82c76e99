"""Recordings of moe-policylang become traces; the files here are made in the format of its 1.15.0."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.convert_helpers import convert, converted, recorded_pairs, reported, write_lines
from tests.support.trace_helpers import Pair
from traces.convert.policylang import JSONL, PARQUET

HEADER = {"model_name": "small", "num_layers": 3, "num_experts": 6, "top_k": 2, "records_full_softmax": True}


def entries(pairs: list[Pair], *, phase: bool = True) -> list[dict[str, Any]]:
    """Per prompt, token and layer; hooks write a pass layer by layer."""
    found = []
    for info, one in pairs:
        steps = one.iteration.tolist()
        for _, layer, n in sorted((steps[n], layer, n) for n in range(len(steps)) for layer in range(3)):
            experts = one.experts[n, layer].tolist()
            entry = {
                "request": info.request,
                "position": n,
                "layer": layer,
                "experts": experts,
                "weights": one.gate[n, layer, experts].tolist(),
                "gate": one.gate[n, layer].tolist(),
                "token": int(one.token[n]),
            }
            found.append(entry | ({"phase": "decode" if steps[n] else "prefill"} if phase else {}))
    return found


def save_jsonl(file: Path, some: list[dict[str, Any]], header: dict[str, Any] = HEADER) -> Path:
    return write_lines(file, [header, *({JSONL[name]: value for name, value in each.items()} for each in some)])


def save_parquet(file: Path, some: list[dict[str, Any]]) -> Path:
    kinds = {"experts": pa.list_(pa.int32()), "phase": pa.string()}
    kinds |= {"weights": pa.list_(pa.float32()), "gate": pa.list_(pa.float32())}
    columns = {PARQUET[name]: pa.array([each[name] for each in some], kinds.get(name, pa.int32())) for name in some[0]}
    pq.write_table(pa.table(columns), file, compression="zstd")
    return file


@pytest.mark.parametrize("phase", [True, False])
@pytest.mark.parametrize("save", [save_jsonl, save_parquet])
def test_what_was_recorded_comes_back_the_same(tmp_path: Path, save: Any, phase: bool) -> None:
    pairs = recorded_pairs(8, gate_complete=True)
    file = save(tmp_path / f"rec{'.parquet' if save is save_parquet else '.jsonl'}", entries(pairs, phase=phase))
    trace = converted("policylang", file)
    assert (trace.meta.kind, trace.meta.prefill, trace.meta.gate_complete) == ("imported", True, True)
    assert (trace.meta.notes or "").startswith(f"converted from moe-policylang's {file.name}, SHA-256 ")
    for info, one in pairs:
        found = trace.read(info.request)
        assert found.source == f"rec/{info.request}"
        assert trace.infos[info.request].prompt_tokens == 5
        for name in ("iteration", "position", "token", "experts", "gate"):
            np.testing.assert_array_equal(getattr(found, name), getattr(one, name))


def test_the_probabilities_of_the_top_k_alone_are_divided_by_their_sum(tmp_path: Path) -> None:
    pairs = recorded_pairs(2, gate_complete=True)
    some = entries(pairs)
    for each in some:
        del each["gate"]
    trace = converted("policylang", save_jsonl(tmp_path / "rec.jsonl", some))
    assert not trace.meta.gate_complete
    assert "48 layers' weights that did not sum to 1 were divided by their sum" in (trace.meta.notes or "")
    gate, executed = pairs[0][1].gate[3, 1].astype(float), pairs[0][1].experts[3, 1]
    wanted = np.zeros(6)
    wanted[executed] = gate[executed] / gate[executed].sum()
    np.testing.assert_allclose(trace.read(0).gate[3, 1], wanted, atol=1e-3)


def test_layers_may_be_numbered_as_in_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = recorded_pairs(1, gate_complete=True)
    some = [each | {"layer": each["layer"] + 1} for each in entries(pairs)]
    file = save_jsonl(tmp_path / "rec.jsonl", some)
    line = reported(capsys, lambda: convert("policylang", file))
    assert line == f"{file}: line 2, field l: must be 0, the first layer of a new token, not 1"
    trace = converted("policylang", file, "--first-layer", "1")
    np.testing.assert_array_equal(trace.read(0).experts, pairs[0][1].experts)


def test_mistakes_are_reported_with_the_recorders_own_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = entries(recorded_pairs(1, gate_complete=True))
    some[20]["experts"] = [0, 6]
    file = save_jsonl(tmp_path / "rec.jsonl", some)
    assert (
        reported(capsys, lambda: convert("policylang", file)) == f"{file}: line 22, field e: must be from 0 to 5, not 6"
    )
    file = save_parquet(tmp_path / "rec.parquet", some)
    wanted = f"{file}: row 20, field selected_experts: must be from 0 to 5, not 6"
    assert reported(capsys, lambda: convert("policylang", file)) == wanted
    file = save_jsonl(tmp_path / "rec.jsonl", some, HEADER | {"num_experts": 8})
    wanted = f"{file}: line 1, field num_experts: must be 6 for small, not 8"
    assert reported(capsys, lambda: convert("policylang", file)) == wanted
    file = write_lines(tmp_path / "rec.jsonl", [HEADER, json.dumps({"p": 0, "t": 0, "l": 0})])
    assert reported(capsys, lambda: convert("policylang", file)) == f"{file}: line 2, field e: is missing"
    (tmp_path / "rec.parquet").write_bytes(b"PAR1")
    assert "rec.parquet: cannot be read: " in reported(capsys, lambda: convert("policylang", tmp_path / "rec.parquet"))
    assert "no.jsonl: does not exist" in reported(capsys, lambda: convert("policylang", tmp_path / "no.jsonl"))
