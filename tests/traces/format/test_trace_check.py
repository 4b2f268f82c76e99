"""Every fault in a trace is reported in one line and never reaches the simulator."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.broken_traces import BROKEN
from tests.support.slow_cases import slow_but
from tests.support.trace_helpers import assert_same, change_meta, change_values, content, small_trace
from traces.__main__ import main
from traces.format.checks import check
from traces.format.reader import Trace
from traces.format.schema import TraceError


def read_everything(path: Path) -> None:
    for _ in Trace.open(path).iter():
        pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_trace(tmp_path_factory.mktemp("whole") / "whole.trace")


@pytest.fixture
def trace(tmp_path: Path, whole: Path) -> Path:
    """A copy to break."""
    path = tmp_path / "a.trace"
    path.mkdir()
    for name, data in content(whole).items():
        (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_trace_is_reported_in_one_line_and_never_read(trace: Path, case: str) -> None:
    breaker, line = BROKEN[case]
    breaker(trace)
    with pytest.raises(TraceError, match=line) as caught:
        read_everything(trace)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(trace))


@pytest.mark.parametrize("case", BROKEN)
def test_check_reports_every_broken_trace_and_exits_with_2(
    trace: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    breaker, line = BROKEN[case]
    breaker(trace)
    assert main(["check", str(trace)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert any(re.search(line, one) for one in lines), lines
    assert all(one.startswith(str(trace)) for one in lines)


@pytest.mark.parametrize("case", ["missing tokens", "truncated tokens", "version", "unknown key", "changed meta"])
def test_info_of_a_broken_trace_exits_with_2(trace: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    breaker, line = BROKEN[case]
    breaker(trace)
    assert main(["info", str(trace)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert re.search(line, captured.err)


def test_a_whole_trace_is_ok(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(trace) == []
    assert main(["check", str(trace)]) == 0
    assert capsys.readouterr().out.startswith(f"{trace}: ok, SYNTHETIC, 4 requests, 32 rows, sha256 ")


def test_a_wrong_hash_is_reported_and_the_changed_row_too(trace: Path) -> None:
    change_values(trace, "tokens.parquet", "experts", lambda values: values.__setitem__((17, 0), 9), rehash=False)
    found = check(trace)
    assert "tokens.parquet: is not the file that meta.json describes" in found[0]
    assert any("tokens.parquet: row 17, layer 0, field experts: must be from 0 to 5, not 9" in line for line in found)


def test_a_sparse_gate_is_positive_exactly_where_experts_ran(tmp_path: Path) -> None:
    path = small_trace(tmp_path / "a.trace", gate_complete=False)
    experts = np.array(pq.read_table(path / "tokens.parquet")["experts"].to_pylist())[6, :2]
    idle = next(expert for expert in range(6) if expert not in experts)

    def zero(values: Any) -> None:
        values[6, experts] = [1, 0]

    def stray(values: Any) -> None:
        values[6, [*experts, idle]] = [0.5, 0.25, 0.25]

    for change, line in [
        (zero, "row 6, layer 0, field gate: must be positive at executed experts, not [1.0, 0.0]"),
        (stray, "row 6, layer 0, field gate: must be 0 at experts that were not executed"),
    ]:
        change_values(path, "tokens.parquet", "gate", change)
        found = check(path)
        assert len(found) == 1
        assert line in found[0]
        with pytest.raises(TraceError, match="field gate"):
            read_everything(path)


def test_a_flipped_bit_is_reported_with_its_rows_and_column(trace: Path) -> None:
    column = pq.ParquetFile(trace / "tokens.parquet").metadata.row_group(2).column(5)
    assert column.path_in_schema.startswith("experts")
    damaged = bytearray((trace / "tokens.parquet").read_bytes())
    damaged[column.data_page_offset + column.total_compressed_size - 2] ^= 1
    (trace / "tokens.parquet").write_bytes(damaged)
    found = check(trace)
    assert "is not the file that meta.json describes" in found[0]
    assert "tokens.parquet: rows 16 to 23, field experts: cannot be read: " in found[1]
    assert len(found) == 2


@pytest.mark.parametrize("times", slow_but([15, 40], 15))
def test_a_flipped_bit_anywhere_is_reported_and_never_changes_what_is_read(trace: Path, times: int) -> None:
    rng = np.random.default_rng(3)
    whole, expected = content(trace), list(Trace.open(trace).iter())
    refused = 0
    for name in [name for name in whole for _ in range(times)]:
        damaged = bytearray(whole[name])
        damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        (trace / name).write_bytes(damaged)
        assert check(trace)
        try:
            for found, one in zip(Trace.open(trace).iter(), expected, strict=True):
                assert_same(found, one)
        except TraceError:
            refused += 1
        (trace / name).write_bytes(whole[name])
    assert refused > 2 * times  # of four times as many: the others hit what nobody reads, as padding and statistics


def test_another_table_of_requests_of_the_same_size_is_noticed_when_the_trace_is_opened(trace: Path) -> None:
    def other(meta: dict[str, Any]) -> None:
        meta["files"]["requests.parquet"]["sha256"] = "0" * 64

    change_meta(trace, other)
    with pytest.raises(TraceError, match=r"requests\.parquet: is not the file that meta\.json describes"):
        Trace.open(trace)


def test_a_file_that_the_description_does_not_know_is_reported(trace: Path) -> None:
    (trace / "more.parquet").write_bytes(b"")
    (trace / "times.json").write_text("{}")  # a sidecar may lie there
    assert check(trace) == [f"{trace}/more.parquet: is not described in meta.json"]


def test_many_problems_are_cut_off(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_values(trace, "tokens.parquet", "token", lambda values: values.__setitem__(slice(None), [99] * 32))
    assert main(["check", str(trace), "--max-problems", "3"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "(8 such rows in this request)" in lines[0]
    assert lines[3].endswith("there are more problems; --max-problems 6 shows more")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nothing.trace", "nothing.trace: does not exist"),
        ("a", "does not exist; did you mean {trace}?"),
        ("b.trace.partial", "is unfinished; repeat the command that started it"),
    ],
)
def test_what_is_not_a_trace_is_reported(trace: Path, capsys: pytest.CaptureFixture[str], name: str, line: str) -> None:
    (trace.parent / "b.trace.partial").mkdir()
    assert main(["info", str(trace.parent / name)]) == 2
    assert line.format(trace=trace) in capsys.readouterr().err


# The commands


def test_info_counts_tokens_and_labels_what_was_not_recorded(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(trace)]) == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert lines["kind"] == "SYNTHETIC: generated, not recorded"
    assert lines["requests"] == "4"
    assert lines["prefill"] == "tokens  20"
    assert lines["decode"] == "tokens   12"
    assert lines["shape"].startswith("3 layers of 6 experts, top-2, hidden 4")
    assert main(["info", str(trace), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["requests"], found["prefill_tokens"], found["decode_tokens"]) == (4, 20, 12)
    assert found["sources"] == {"source 0": 2, "source 1": 1, "source 2": 1}
    assert found["sha256"] == json.loads((trace / "meta.json").read_text())["sha256"]


def test_info_of_a_trace_without_prefill_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = small_trace(tmp_path / "a.trace", prefill=False, kind="imported", embedding=False)
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "none: no prefill was recorded" in out
    assert "SYNTHETIC" not in out


def test_the_commands_need_no_torch_and_set_the_exit_status(trace: Path) -> None:
    code = (
        "import runpy, sys; from pathlib import Path; from traces.__main__ import main\n"
        "path = sys.argv.pop()\n"
        "assert main(['check', path]) == main(['info', path]) == 0\n"
        "import traces.convert\n"
        "assert not {'torch', 'transformers'} & {*sys.modules}\n"
        "(Path(path) / 'tokens.parquet').unlink()\n"
        "del sys.modules['traces.__main__']\n"
        "sys.argv += ['check', path]\n"
        "runpy.run_module('traces', run_name='__main__', alter_sys=True)  # as python -m traces does\n"
    )
    command = [sys.executable, "-c", code, str(trace)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == f"{trace}/tokens.parquet: is missing\n"


def test_an_interruption_is_one_line_and_130(
    trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(path: Path) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("traces.format.reader.Trace.open", interrupt)
    assert main(["info", str(trace)]) == 130
    assert capsys.readouterr().err == "interrupted; nothing was kept\n"


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("info", "check", "convert"):
        assert main([command, "--help"]) == 0
        assert f"Example: finemoe traces {command} " in capsys.readouterr().out
