"""A small trace to simulate, and the command that simulates it."""

import json
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from sim.__main__ import main
from tests.support.trace_helpers import small_shape, small_trace

SHAPE = small_shape(layers=4, experts=8)  # 32 experts of 3·4·8 weights of 2 bytes
EXPERT_BYTES = 192
ITERATIONS_OF_A_REQUEST = 4  # a prefill of 5 tokens and 3 decoded
NO_REFERENCES = ("--references", "none")
"""Options of a command whose policies are not compared with other runs, which take most of its time."""
POLICIES = ("finemoe", "lru", "oracle", "no-offload")

REQUIRED = {
    "policy",
    "ttft_s_mean",
    "tpot_s_mean",
    "tpot_s_p50",
    "tpot_s_p95",
    "hit_rate",
    "hit_rate_prefill",
    "hit_rate_decode",
    "hit_or_late_rate",
    "late_rate",
    "miss_rate",
    "distinct_demands",
    "bytes_per_token",
    "expert_memory_bytes",
}


def arguments(trace: Path, *more: Any, policies: tuple[str, ...] = POLICIES) -> list[str]:
    return ["run", str(trace), *[word for name in policies for word in ("--policy", name)], *map(str, more)]


def frames(out: Path) -> dict[str, pd.DataFrame]:
    return {file.stem: pd.read_parquet(file) for file in sorted(out.glob("*.parquet"))}


def run_once(out: Path, trace: Path, *more: Any) -> tuple[dict[str, dict[str, Any]], Path]:
    """The command for fixtures of a module, which capture no output: the JSON of each policy, and `out`."""
    with redirect_stdout(StringIO()) as printed:
        assert main(arguments(trace, "--json", "--out", out, *more)) == 0
    return {each["policy"]: each for each in json.loads(printed.getvalue())}, out


def rows_of(trace: Path, requests: set[int]) -> list[dict[str, Any]]:
    """Rows of `tokens.parquet`, read without the project's reader."""
    columns = ["request", "iteration", "experts"]
    return [
        row
        for row in pq.read_table(trace / "tokens.parquet", columns=columns).to_pylist()
        if row["request"] in requests
    ]


def demands_of(trace: Path, groups: list[list[int]]) -> int:
    """Distinct (group, iteration, layer, expert), the requests of a group running together."""
    group = {request: number for number, requests in enumerate(groups) for request in requests}
    return len(
        {
            (group[row["request"]], row["iteration"], place // SHAPE.top_k, expert)
            for row in rows_of(trace, set(group))
            for place, expert in enumerate(row["experts"])
        }
    )


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten requests with prefill, embeddings and lookahead; seven to learn from and three to simulate."""
    return small_trace(tmp_path_factory.mktemp("trace") / "small.trace", 10, shape=SHAPE)


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without prefill or embeddings."""
    folder = tmp_path_factory.mktemp("decoded")
    return small_trace(folder / "decoded.trace", 10, shape=SHAPE, prefill=False, embedding=False)


@pytest.fixture(scope="module")
def written(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, Any]], Path]:
    """The command without further settings, run once: the JSON of each policy, and the folder of results."""
    return run_once(tmp_path_factory.mktemp("written") / "results", trace)


@pytest.fixture
def plain(written: tuple[dict[str, dict[str, Any]], Path]) -> dict[str, dict[str, Any]]:
    """The JSON of each policy, without further settings."""
    return written[0]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def simulate(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command with `--json`; the answer is the object of each policy."""

    def run(trace: Path, *more: Any, policies: tuple[str, ...] = POLICIES) -> dict[str, dict[str, Any]]:
        assert main(arguments(trace, "--json", *more, policies=policies)) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return {each["policy"]: each for each in json.loads(captured.out)}

    return run


def commands_of_sim(run: Callable[..., None], trace: Path, results: Path, folder: Path) -> None:
    """Have `run` carry out the commands of sim that print or draw what a trace is, with its results in `results`."""
    one, other = folder / "a.svg", folder / "b.svg"
    run(main, *arguments(trace, policies=("lru", "belady")))
    run(main, "plot", results, "--out", one, picture=one)
    words = ("predict", trace, "--policy", "finemoe", "--distance", 1)
    run(main, *words, "--plot", other, prints=True, picture=other)
