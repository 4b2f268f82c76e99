"""Route traces of BigMoeOnEdge become traces without loss, and every mistake is reported with its line."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim.hardware.memory import dense_weights
from tests.support.convert_helpers import reported
from tests.support.route_traces import HEADER, Engine, route_file
from tests.support.shared_data import BIG_MOE_ON_EDGE
from traces.__main__ import main
from traces.format.checks import check
from traces.format.reader import Trace

Lines = list[str]


def convert(file: Path, *more: str) -> int:
    return main(["convert", "route-trace", str(file), "--out", str(file.with_suffix(".trace")), *more])


def converted(file: Path, *more: str, out: Path | None = None) -> Trace:
    out = out or file.with_suffix(".trace")
    assert main(["convert", "route-trace", str(file), "--out", str(out), "--overwrite", *more]) == 0
    assert check(out) == []
    return Trace.open(out)


def tiny(file: Path) -> Path:
    return route_file(file, Engine(sizes=[3000, 5000, 4000], top_k=2), [(0, 4, 5), (9, 3, 2)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tiny(tmp_path / "tiny.csv")


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return converted(tiny(tmp_path_factory.mktemp("usual") / "tiny.csv"))


def rows_of(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, comment="#")


def test_each_row_is_in_its_place(file: Path) -> None:
    """Read again by pandas: routing, weights, residency; and the prompt's tokens that pass the last layer by."""
    trace = converted(file)
    assert (trace.shape.layers, trace.shape.experts, trace.shape.top_k) == (3, 16, 2)
    assert trace.shape.name == "tiny-moe-Q4"
    assert trace.shape.expert_bytes_by_layer == (3000, 5000, 4000)
    assert [info.prompt_tokens for info in trace.infos.values()] == [4, 3]
    assert [info.output_tokens for info in trace.infos.values()] == [6, 3]
    table = rows_of(file)
    for request in trace.request_ids:
        recorded = trace.read(request)
        own = table[table["turn"] == request]
        executed = 0
        for row in own.itertuples():
            at = recorded.position.tolist().index(row.step), row.layer, row.slot
            assert recorded.experts[at] == row.expert
            assert recorded.residency is not None
            assert recorded.residency[at] == row.residency
            assert recorded.gate[at[0], row.layer, row.expert] == pytest.approx(row.weight, abs=6e-4)
            assert (recorded.iteration[at[0]] == 0) == (row.phase == 0)
            executed += 1
        assert (recorded.experts >= 0).sum() == executed
        prompt = int((recorded.iteration == 0).sum())
        assert (recorded.experts[: prompt - 1, -1] == -1).all()
        assert (recorded.gate[: prompt - 1, -1] == 0).all()


def test_it_says_how_often_the_engine_hit_and_info_says_it_again(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = converted(file)
    table = rows_of(file)
    table["iteration"] = table["step"].where(table["phase"] == 1, -1)
    events = table.groupby(["turn", "phase", "iteration", "layer", "expert"])["residency"].min().reset_index()
    rates = [events["residency"].mean(), *events.groupby("phase")["residency"].mean()]
    whole, prefill, decode = (f"{rate:.2%}".removesuffix("%") for rate in rates)
    line = f"hit rate {whole} % (prefill {prefill}, decode {decode}) of {len(events)} distinct experts"
    missed = table["expert_bytes"].sum(), table.loc[table["phase"] == 1, "expert_bytes"].sum()
    line += f" per iteration and layer; missed {missed[0]:,} bytes, {missed[1]:,} of them in decode"
    assert capsys.readouterr().out.splitlines() == [str(trace.path), f"the engine's own cache: {line}"]
    assert main(["info", str(trace.path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert line in shown
    assert "0.003 to 0.005 MB an expert" in shown


# ---- other files of the format ---------------------------------------------------------------------------------------


def edited(file: Path, edit: Callable[[Lines], object]) -> Path:
    lines = file.read_text().splitlines()
    changed = edit(lines)
    file.write_text("\n".join(changed if isinstance(changed, list) else lines) + "\n")
    return file


def same_rows(one: Trace, other: Trace) -> bool:
    pairs = zip(one.iter(), other.iter(), strict=True)
    names = ("iteration", "position", "experts", "gate", "residency")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for a, b in pairs for name in names)


def in_words(row: Sequence[str]) -> str:
    return ",".join([*row[:7], ("miss", "Hit")[int(row[7])], row[8]])


OTHER_FORMS: dict[str, Callable[[Lines], object]] = {
    "windows line ends": lambda lines: [line + "\r" for line in lines],
    "blank lines and a summary": lambda lines: [lines[0], "", *lines[1:], "", "# summary tokens=7 s/tok=0.2"],
    "no version": lambda lines: lines[1:],
    "no sizes of layers": lambda lines: [line for line in lines if "# layer" not in line],
    "rows in another order": lambda lines: lines[:6] + lines[6:][::-1],
    "hit or miss in words": lambda lines: [
        *lines[:5],
        HEADER.replace("residency", "hit"),
        *(in_words(line.split(",")) for line in lines[6:]),
    ],
    "columns in another order and one that is new": lambda lines: [
        *lines[:5],
        *(",".join(reversed([*line.split(","), "other" if line == HEADER else "x"])) for line in lines[5:]),
    ],
    "nothing dropped": lambda lines: [
        *lines[:5],
        *(line + (",dropped" if line == HEADER else ",0") for line in lines[5:]),
    ],
    "the model used fewer experts than it could": lambda lines: [
        line.replace("n_expert_used=2", "n_expert_used=8") for line in lines
    ],
}


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_other_forms_of_the_same_rows_are_read_alike(usual: Trace, form: str, tmp_path: Path) -> None:
    other = converted(edited(tiny(tmp_path / "other.csv"), OTHER_FORMS[form]))
    assert same_rows(usual, other)
    assert other.shape.layer_expert_bytes == usual.shape.layer_expert_bytes


def test_without_any_comment_sizes_are_those_of_the_rows(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = converted(file)
    trace = converted(edited(file, lambda lines: lines[5:]))
    assert same_rows(usual, trace) == (trace.shape.experts == 16)
    assert trace.shape.experts == rows_of(file)["expert"].max() + 1
    assert trace.shape.name == "tiny"
    assert "the file has no number of experts: " in (trace.meta.notes or "")


def test_unknown_weights_are_shared_out_and_others_are_scaled(file: Path) -> None:
    def change(lines: Lines) -> None:
        for at, weights in ((6, ("nan", "nan")), (8, ("3", "1"))):
            for row, weight in enumerate(weights):
                cells = lines[at + row].split(",")
                lines[at + row] = ",".join([*cells[:6], weight, *cells[7:]])

    recorded = converted(edited(file, change)).read(0)
    first, second = (np.take(recorded.gate[token, 0], recorded.experts[token, 0]) for token in (0, 1))
    assert first.tolist() == [0.5, 0.5]
    assert second.tolist() == [0.75, 0.25]
    notes = Trace.open(file.with_suffix(".trace")).meta.notes or ""
    assert "1 layers of tokens have no weights" in notes
    assert "1 layers' weights that did not sum to 1" in notes


def test_what_the_engine_dropped_was_not_executed(file: Path) -> None:
    def drop(lines: Lines) -> Lines:
        rows = [line + ",0" for line in lines[6:]]
        cells = rows[1].split(",")
        rows[1] = ",".join([*cells[:7], "0", "0", "1"])
        return [*lines[:5], HEADER + ",dropped", *rows]

    recorded = converted(edited(file, drop)).read(0)
    assert recorded.experts[0, 0, 1] == -1
    assert recorded.residency is not None
    assert recorded.residency[0, 0, 1] == -1
    assert recorded.gate[0, 0, recorded.experts[0, 0, 0]] == 1


def test_dense_layers_are_left_out_of_the_numbers(tmp_path: Path) -> None:
    trace = converted(route_file(tmp_path / "tiny.csv", Engine(sizes=[0, 3000, 0, 5000])))
    assert trace.shape.layer_expert_bytes == (3000, 5000)
    assert "layers 1, 3 are renumbered from 0" in (trace.meta.notes or "")


def test_sizes_come_from_a_named_model_or_a_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = Engine(sizes=[40_000_000] * 24, experts=32, top_k=2, slots=90)  # fewer than its own top-4
    file = route_file(tmp_path / "oss.csv", engine, [(0, 2, 3)])
    shape = converted(file, "--model", "gpt-oss-20b").shape
    assert (shape.name, shape.top_k, shape.hidden, shape.expert_ffn) == ("gpt-oss-20b", 2, 2880, 2880)
    assert shape.expert_bytes == 40_000_000 == round(3 * 2880 * 2880 * shape.weight_bytes)
    assert "guessed" not in (Trace.open(file.with_suffix(".trace")).meta.notes or "")
    line = reported(capsys, lambda: convert(file, "--overwrite", "--model", "mixtral-8x7b"))
    assert line == f"mixtral-8x7b: layers must be 24, as in {file}, not 32"


def test_guessed_sizes_have_the_bytes_of_the_file(file: Path) -> None:
    """The comments say 9,000 dense bytes a layer, at 4.5 bits a weight: the smallest width there is has more."""
    shape = converted(file).shape
    assert shape.hidden == shape.attention_heads * shape.head_dim == 64
    assert 3 * shape.hidden * shape.expert_ffn * shape.weight_bytes == pytest.approx(4000)
    assert shape.expert_bytes == 4000
    assert "are guessed" in (Trace.open(file.with_suffix(".trace")).meta.notes or "")


@pytest.mark.skipif(not BIG_MOE_ON_EDGE.is_dir(), reason="no measurements of BigMoeOnEdge here")
def test_guessed_dense_layers_take_the_bytes_that_the_file_states(tmp_path: Path) -> None:
    source = BIG_MOE_ON_EDGE / "gemma.route.csv"
    shape = converted(source, out=tmp_path / "gemma.trace").shape
    stated = [int(part.split("=")[1]) for part in source.read_text()[:5000].split() if part.startswith("dense_bytes=")]
    assert len(stated) == shape.layers == 30
    assert dense_weights(shape) * shape.weight_bytes == pytest.approx(sum(stated) / 30, rel=0.03)


# ---- mistakes --------------------------------------------------------------------------------------------------------


def cell(at: int, column: str, value: str) -> Callable[[Lines], None]:
    def change(lines: Lines) -> None:
        cells = lines[at].split(",")
        cells[HEADER.split(",").index(column)] = value
        lines[at] = ",".join(cells)

    return change


def without(*at: int) -> Callable[[Lines], Lines]:
    return lambda lines: [line for number, line in enumerate(lines) if number not in at]


def repeated(at: int) -> Callable[[Lines], None]:
    return lambda lines: lines.insert(at + 1, lines[at])


WHOLE = "must be a whole number from 0 to 2147483647"
NUMBER = "must be a whole number from 0 to 32766"
WEIGHT = "must be a number of at least 0, or nan"

# Lines count from 1: five comments, the header, then two rows for each token and layer, in the prefill layer by layer.
MISTAKES: dict[str, tuple[Callable[[Lines], object], str]] = {
    "another version": (
        lambda lines: lines.__setitem__(0, "# route_trace v2"),
        "line 1, field route_trace: must be v1, not v2",
    ),
    "size is no number": (
        lambda lines: lines.__setitem__(1, lines[1].replace("=16", "=many")),
        "line 2, field n_expert: must be a whole number of at least 1, not 'many'",
    ),
    "layer twice": (lambda lines: lines.insert(3, lines[2]), "line 4, field layer: layer 0 was already described"),
    "no header": (without(5), "line 6, field phase: is missing from the header '0,0,0,0,0,"),
    "column missing": (
        lambda lines: lines.__setitem__(5, HEADER.replace("expert,weight", "other,weight")),
        "line 6, field expert: is missing from the header 'turn,",
    ),
    "column twice": (
        lambda lines: lines.__setitem__(5, HEADER.replace("weight", "slot")),
        "line 6, field slot: occurs twice",
    ),
    "too few values": (lambda lines: lines.__setitem__(9, "0,0,1"), "line 10: must have 9 values (turn, phase, "),
    "no number": (
        cell(9, "expert", "x7"),
        f"line 10, field expert: {NUMBER}, not 'x7'",
    ),
    "a fraction": (
        cell(9, "step", "1.5"),
        f"line 10, field step: {WHOLE}, not '1.5'",
    ),
    "negative": (cell(9, "step", "-1"), f"line 10, field step: {WHOLE}, not '-1'"),
    "phase": (cell(9, "phase", "2"), "line 10, field phase: must be a whole number from 0 to 1, not '2'"),
    "expert": (cell(9, "expert", "16"), "line 10, field expert: must be below 16 (n_expert), not 16"),
    "layer": (cell(9, "layer", "3"), "line 10, field layer: must be below 3 (n_layer), not 3"),
    "slot": (cell(9, "slot", "2"), "line 10, field slot: must be below 2 (n_expert_used), not 2"),
    "weight": (cell(9, "weight", "-0.1"), f"line 10, field weight: {WEIGHT}, not '-0.1'"),
    "infinite weight": (
        cell(9, "weight", "inf"),
        f"line 10, field weight: {WEIGHT}, not 'inf'",
    ),
    "residency": (
        cell(9, "residency", "3"),
        "line 10, field residency: must be 0 (miss), 1 (hit) or 2 (prefetched), not '3'",
    ),
    "read too much": (
        cell(6, "expert_bytes", "3001"),
        "line 7, field expert_bytes: must be at most 3000, the size of an expert of layer 0, not 3001",
    ),
    "read a hit": (
        lambda lines: lines.__setitem__(6, ",".join([*lines[6].split(",")[:7], "1", "3000"])),
        "line 7, field expert_bytes: must be 0 for an expert in the cache, not 3000",
    ),
    "row twice": (repeated(9), "line 11, field slot: repeats turn, phase, step, layer and slot of line 10"),
    "row missing": (without(9), "field slot: step 1 of turn 0 has no layer 0, slot 1"),
    "layer missing": (without(8, 9), "field layer: step 1 of turn 0 has no layer 0"),
    "no such layer": (
        lambda lines: [line for line in lines if line[0] in "#t" or line.split(",")[3] != "1"],
        "field layer: no row has layer 1, but a comment gives its expert size",
    ),
    "step missing": (
        lambda lines: [line for line in lines if not line.startswith("0,1,6,")],
        "field step: must be 6, the next step of turn 0, not 7",
    ),
    "prefill missing": (
        lambda lines: [line for line in lines if not line.startswith("1,0,")],
        "field phase: turn 1 has no prefill, but the turns before have one",
    ),
    "expert twice": (
        lambda lines: cell(7, "expert", lines[6].split(",")[5])(lines),
        "line 8, field expert: expert 4 is already in line 7 for the same token and layer",
    ),
    "a slot beyond all experts": (
        lambda lines: cell(9, "slot", "30000")(lines) or lines[5:],
        "line 5, field slot: must be below ",
    ),
    "nothing": (lambda lines: lines[:6], "has no row of a route trace"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_reported_with_its_line(file: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, line = MISTAKES[case]
    edited(file, change)
    found = reported(capsys, lambda: convert(file))
    assert found.startswith(str(file))
    assert line in found
    assert not file.with_suffix(".trace").exists()


@pytest.mark.parametrize("kept", [1, 7, 15, 20])
def test_a_truncated_last_line_is_reported(file: Path, kept: int, capsys: pytest.CaptureFixture[str]) -> None:
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:-1], lines[-1][:kept]]))
    found = reported(capsys, lambda: convert(file))
    assert found.startswith(f"{file}: line {len(lines)} (incomplete): must have 9 values")


def test_a_missing_or_binary_file_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.csv"
    assert reported(capsys, lambda: convert(file)) == f"{file}: does not exist"
    file.write_bytes(b"\xff\xfe\x00turn")
    assert reported(capsys, lambda: convert(file)).startswith(f"{file}: cannot be read")
