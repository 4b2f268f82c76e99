"""Mistakes of a user of `finemoe sim run`: one clear line, exit status 2, nothing left behind."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from policies.base import Policy, Prefetcher
from policies.evictors.recency import LeastRecentlyUsed
from policies.registry import NAMED
from sim.__main__ import main
from sim.hardware.profile import Table, write_profile
from tests.support.broken_traces import BROKEN
from tests.support.profiles import flat_profile
from tests.support.run_helpers import NO_REFERENCES, POLICIES, SHAPE, arguments
from tests.support.slow_cases import slow_but
from tests.support.trace_helpers import change_values, content, small_trace


def refused(capsys: pytest.CaptureFixture[str], command: list[str]) -> str:
    """The one line on stderr with which the command exits with 2; stdout stays empty."""
    capsys.readouterr()
    assert main(command) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err.removeprefix("error: ").removesuffix("\n")


WRONG = [
    (("--policy", "finemo"), "unknown policy 'finemo'; did you mean 'finemoe'?"),
    (("--policy", ""), "unknown policy ''; known: "),
    (("--policy", "finemoe,capcity=5"), "policy finemoe: unknown setting 'capcity'; did you mean 'capacity'?"),
    (("--policy", "lru,capacity=5"), "policy lru has no settings; remove 'capacity'"),
    (("--policy", "finemoe,capacity"), "must be KEY=VALUE, not 'capacity'"),
    (("--policy", "finemoe,capacity=many"), "capacity: must be a whole number, not 'many'"),
    (("--policy", "finemoe,learn=perhaps"), "learn: must be true or false, not 'perhaps'"),
    (("--policy", "finemoe,capacity=0"), "finemoe: capacity: must be at least 1, not 0"),
    (("--policy", "finemoe,prefetch_distance=5"), "finemoe: prefetch_distance: must be from 1 to 4, not 5"),
    (("--policy", "finemoe,fill=full"), "fill: must be random or redundancy, not 'full'"),
    (("--policy", "finemoe,capacity=100000000000000"), "capacity"),
    (("--machine", "rtx3090x4"), "unknown machine 'rtx3090x4'; known: a100-80gb, h100-80gb, h200-141gb, "),
    (("--machine", "rtx3090,gpuss=4"), "gpuss: is not a setting of rtx3090; did you mean 'gpus'?"),
    (("--sizes", "mixtral-8x7"), "unknown model 'mixtral-8x7'; did you mean 'mixtral-8x7b'?"),
    (
        ("--sizes", "gpt-oss-20b"),
        "--sizes: gpt-oss-20b has top-4 of 32 experts, but the trace of small has top-2 of 8",
    ),
    (("--cache-experts", 0), "--cache-experts: must be at least 1, not 0"),
    (("--cache-experts", 5), "must hold 6 to 32 for small on 6 GPUs (top-2, one slot per GPU)"),
    (("--cache-experts", 33), "--cache-experts: 33 gives room for 33 experts; the cache must hold 6 to 32"),
    (("--cache-share", 0), "--cache-share: must be above 0 and at most 1, not 0.0"),
    (("--cache-share", 2), "--cache-share: must be above 0 and at most 1, not 2.0"),
    (("--cache-share", "nan"), "--cache-share: must be a finite number, not nan"),
    (("--cache-share", 0.01), "--cache-share: 0.01 gives room for 0 experts; "),
    (("--cache-gb", -1), "--cache-gb: must be above 0, not -1.0"),
    (("--cache-gb", 0.3, "--sizes", "mixtral-8x7b"), "--cache-gb: 0.3 gives room for 0 experts; "),
    (("--cache-gb", "inf"), "--cache-gb: must be a finite number, not inf"),
    (("--train-split", 1), "--train-split: must be at least 0 and below 1, not 1.0"),
    (
        ("--train-split", 0.99),
        "--train-split: 10 requests are not enough: 0.99 takes all as history and leaves none of ",
    ),
    (("--batch-size", 0), "--batch-size: must be at least 1, not 0"),
    (("--replicas", 0), "--replicas: must be at least 1, not 0"),
    (("--replicas", 7), "--replicas: must be from 1 to 6, the number of GPUs, not 7"),
    (("--chunk-bytes", 0), "--chunk-bytes: must be at least 1, not 0"),
    (("--chunk-bytes", "all"), "--chunk-bytes: must be a whole number or whole, not 'all'"),
    (
        ("--sizes", "mixtral-8x7b", "--chunk-bytes", 1),
        "chunk_bytes 1: an expert of 352321536 bytes would take more",
    ),
    (("--requests", 0), "--requests: must be at least 1, not 0"),
    (("--seed", -1), "--seed: must be at least 0, not -1"),
    (("--seed",), "--seed: needs a value"),
    (("--cache-gb", "maxx"), "--cache-gb: must be a number or max, not 'maxx'"),
    (("--placement", "any"), "--placement: must be round-robin or balanced, not 'any'"),
    (("--brief=maybe",), "--brief: must be true or false, not 'maybe'"),
    (("--polcy", "lru"), "unknown option --polcy; did you mean --policy?"),
]
ALIKE = [  # other values that the same checks refuse
    (("--policy", "LRU"), "unknown policy 'LRU'; known: belady, "),
    (
        ("--sizes", "phi-3.5-moe"),
        "--sizes: phi-3.5-moe has top-2 of 16 experts, but the trace of small has top-2 of 8",
    ),
    (("--cache-experts", -3), "--cache-experts: must be at least 1, not -3"),
    (
        ("--cache-experts", 1, "--machine", "paper-a100"),
        "must hold 2 to 32 for small on 1 GPU (top-2, one slot per GPU)",
    ),
    (("--cache-share", -0.5), "--cache-share: must be above 0 and at most 1, not -0.5"),
    (("--cache-gb", 0), "--cache-gb: must be above 0, not 0.0"),
    (("--cache-gb", "nan"), "--cache-gb: must be a finite number, not nan"),
    (("--train-split", -0.1), "--train-split: must be at least 0 and below 1, not -0.1"),
    (("--train-split", "nan"), "--train-split: must be a finite number, not nan"),
    (("--batch-size", -2), "--batch-size: must be at least 1, not -2"),
    (("--replicas", 2, "--machine", "paper-a100"), "--replicas: must be from 1 to 1, the number of GPUs, not 2"),
    (("--requests", -1), "--requests: must be at least 1, not -1"),
]


@pytest.mark.parametrize(
    ("more", "said"),
    slow_but([*WRONG, *ALIKE], *WRONG),
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_wrong_setting_is_one_line_and_leaves_nothing(
    trace: Path, out: Path, capsys: pytest.CaptureFixture[str], more: tuple[Any, ...], said: str
) -> None:
    policies = () if more[0] == "--policy" else ("finemoe", "lru")
    assert said in refused(capsys, arguments(trace, *more, "--out", out, policies=policies))
    assert list(out.parent.iterdir()) == []


def test_an_illegal_cache_size_is_refused_whatever_the_policy(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, arguments(trace, "--cache-experts", 0, policies=("no-offload",)))


@pytest.mark.parametrize("more", [("--cache-experts", "two"), ("--seed", "x"), ("--detail", "all"), ("--nothing",)])
def test_a_word_that_is_no_number_or_no_option_ends_with_2(
    trace: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    assert more[0] in refused(capsys, arguments(trace, *more))


def test_only_one_cache_size_can_be_given(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, arguments(trace, "--cache-experts", 8, "--cache-share", 0.25))
    assert said == "--cache-share: give exactly one of --cache-experts, --cache-share and --cache-gb"


def test_a_profile_of_another_model_is_one_line_and_leaves_nothing(
    trace: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "a.toml"
    write_profile(profile, flat_profile(replace(SHAPE, name="large", hidden=5)))
    said = refused(capsys, arguments(trace, "--machine", profile, "--out", out))
    assert said == "profile flat: it was measured for large with hidden 5, but small has hidden 4"
    assert not out.exists()


def test_a_profile_that_was_measured_with_too_few_tokens_is_one_line_and_leaves_nothing(
    trace: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The prefill of 5 tokens is more than the 4 that were measured."""
    profile = tmp_path / "a.toml"
    write_profile(profile, flat_profile(SHAPE, dense=Table(sizes=(1, 4), seconds=(1.0, 2.0))))
    said = refused(capsys, arguments(trace, "--machine", profile, "--out", out))
    assert said == "profile flat: dense time was measured for 1 … 4 tokens, but 5 are needed; calibrate again with more"
    assert not out.exists()


def test_a_mistake_in_a_profile_is_one_line(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = tmp_path / "a.toml"
    said = refused(capsys, arguments(trace, "--machine", profile))
    assert said == f"{profile}: does not exist"
    write_profile(profile, flat_profile(SHAPE))
    profile.write_text(profile.read_text().replace("gpus = 1", "gpu = 1"))
    said = refused(capsys, arguments(trace, "--machine", profile))
    assert said == f"{profile}: unknown key 'gpu'; did you mean 'gpus'?"


def test_a_missing_trace_is_one_line(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, arguments(tmp_path / "none.trace", "--out", out))
    assert said == f"{tmp_path}/none.trace: does not exist"
    assert list(tmp_path.iterdir()) == []


def test_a_forgotten_suffix_is_suggested(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"did you mean {trace}?" in refused(capsys, arguments(trace.with_suffix("")))


def copied(trace: Path, to: Path) -> Path:
    to.mkdir()
    for name, data in content(trace).items():
        (to / name).write_bytes(data)
    return to


def test_truncated_tokens_are_one_line(
    trace: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = copied(trace, tmp_path / "a.trace")
    tokens = broken / "tokens.parquet"
    tokens.write_bytes(tokens.read_bytes()[:-500])
    assert refused(capsys, arguments(broken, "--out", out)).startswith(f"{tokens}: ")
    assert [file.name for file in tmp_path.iterdir()] == ["a.trace"]


def test_a_flipped_bit_is_found_when_its_request_is_read(
    trace: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same size, so only reading can tell: in the middle of the run, and still nothing is left behind."""
    broken = copied(trace, tmp_path / "a.trace")
    tokens = broken / "tokens.parquet"
    data = bytearray(tokens.read_bytes())
    data[len(data) // 2] ^= 1
    tokens.write_bytes(data)
    assert refused(capsys, arguments(broken, "--out", out)).startswith(f"{tokens}: ")
    assert not out.exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trace that is broken in every way."""
    return small_trace(tmp_path_factory.mktemp("whole") / "a.trace")


@pytest.mark.parametrize("case", slow_but([*BROKEN], *[*BROKEN][::4]))
def test_a_broken_trace_is_one_line(
    whole: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """`finemoe` reads what it learns from and what it is simulated on, so nothing escapes it."""
    broken = copied(whole, tmp_path / "a.trace")
    BROKEN[case][0](broken)
    refused(capsys, arguments(broken, "--train-split", 0.5, "--out", out, policies=("finemoe",)))
    assert [file.name for file in tmp_path.iterdir()] == ["a.trace"]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_gate_that_is_no_number_stops_every_policy(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    broken = copied(trace, tmp_path / "a.trace")

    def spoil(gate: Any) -> None:
        gate[:, 0] = np.nan

    change_values(broken, "tokens.parquet", "gate", spoil)
    assert "layer 0, field gate: must be finite, not nan" in refused(capsys, arguments(broken, policies=(policy,)))


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_results_that_exist_are_not_touched(
    trace: Path, out: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    if kind == "folder":
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    else:
        out.write_text("mine")
    assert refused(capsys, arguments(trace, "--out", out)) == (
        f"{out} exists already; choose another name, or replace it with --overwrite"
    )
    assert (out / "mine.txt" if kind == "folder" else out).read_text() == "mine"
    assert list(out.parent.iterdir()) == [out]


def test_existing_results_are_noticed_before_anything_is_simulated(
    trace: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("simulated")

    out.mkdir()
    monkeypatch.setattr("sim.simulation.simulate", never)
    refused(capsys, arguments(trace, "--out", out))


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_full_disk_costs_the_folder_and_not_the_figures(
    trace: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    write_table, written = pq.ParquetWriter.write_table, []

    def full(writer: Any, table: Any, *more: Any, **options: Any) -> None:
        if len(written) == after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(table)
        write_table(writer, table, *more, **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    policies = ("finemoe", "lru")
    assert main(arguments(trace, *NO_REFERENCES, "--json", "--out", out, policies=policies)) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: {out}: results could not be written: No space left on device\n"
    assert [each["policy"] for each in json.loads(captured.out)] == list(policies)
    assert list(out.parent.iterdir()) == []


def test_results_cannot_go_below_a_file(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    below = tmp_path / "file" / "results"
    assert refused(capsys, arguments(trace, "--out", below)) == f"{below} cannot be written: Not a directory"
    assert (tmp_path / "file").read_text() == "mine"


def needy() -> Policy:
    """A policy that predicts from embeddings alone."""

    class Needy(Prefetcher):
        requires = frozenset({"embedding"})

    return Policy(prefetcher=Needy(), evictor=LeastRecentlyUsed())


def test_a_policy_that_needs_what_the_trace_lacks_names_it(
    simulate: Any, trace: Path, decoded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NAMED, "needy", f"{__name__}:needy")
    assert simulate(trace, *NO_REFERENCES, policies=("needy",))["needy"]["requests"] == 3
    said = refused(capsys, arguments(decoded, policies=("lru", "needy")))
    assert said == f"policy needy needs embeddings.parquet, which {decoded} does not have"


def test_an_interruption_leaves_nothing(
    trace: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sim.engine.engine.Engine.run", interrupted)
    assert main(arguments(trace, "--out", out)) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert list(out.parent.iterdir()) == []
