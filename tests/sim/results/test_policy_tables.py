"""The tables that `sim run` prints: narrow by default, with what makes sense, and with all that is in `--wide` ones."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sim.__main__ import main
from sim.results.policy_tables import figures_table, split_tables
from sim.results.summary import Summary
from tests.support.run_helpers import NO_REFERENCES, arguments

LONG = "finemoe,prefetch_distance=2,capacity=1000+lhd,classes=8"
POLICIES = (LONG, "mixtral-offloading", "deepspeed", "lru", "no-offload")


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


def summaries(trace: Path, simulate: Any, *more: Any, policies: Sequence[str] = POLICIES) -> list[Summary]:
    return list(simulate(trace, *more, policies=tuple(policies)).values())


@pytest.mark.parametrize(
    "more",
    [
        pytest.param((), marks=pytest.mark.slow),
        pytest.param(("--batch-size", 3), marks=pytest.mark.slow),
        ("--sizes", "mixtral-8x7b"),
        pytest.param(("--cache-experts", 8), marks=pytest.mark.slow),
    ],
)
def test_no_line_has_more_than_100_characters(
    trace: Path, capsys: pytest.CaptureFixture[str], more: tuple[Any, ...]
) -> None:
    assert main(arguments(trace, *more, policies=POLICIES)) == 0
    text = capsys.readouterr().out
    assert widest(text) <= 100


def test_a_long_name_continues_on_the_next_line(plain: dict[str, Summary]) -> None:
    row = plain["lru"]
    for label in (LONG, "my_package.with_a_long_name:" + "x" * 99, "the policy that my colleague made on Monday"):
        table = figures_table([row | {"label": label, "fits": False}])
        assert widest(table) <= 100
        rule, *lines = table[table.index("---") :].splitlines()
        names = "".join(line[: rule.index(" ")] for line in lines)
        assert re.sub(r"\s", "", names) == re.sub(r"\s", "", label) + "*"


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("factor", [1e-9, 1e-3, 1.0, 1e4])
def test_nothing_that_is_not_zero_is_printed_as_zero(plain: dict[str, Summary], factor: float, wide: bool) -> None:
    """Whatever times are, and tiny shares."""
    rows = [dict(plain[policy]) for policy in ("finemoe", "lru")]
    for row in rows:
        for key, value in row.items():
            if re.search("_s(_|$)", key) and value is not None:
                row[key] = value * factor
    rows[0] |= {"hit_rate": 2e-5, "tpot_over_no_offload": 1e-4, "bytes_per_token": 0.3, "decode_search_wait_s": 1e-12}
    zeros = [cell for cell in _cells(rows, wide) if re.fullmatch(r"[+-]?0(\.0+)?", cell)]
    shown = {"0"} if not wide else {"0", "0.0"}  # lru prefetches nothing: its late ones are none
    assert set(zeros) <= shown


def _cells(rows: Sequence[Summary], wide: bool) -> list[str]:
    text = "\n".join([figures_table(rows, wide=wide), *split_tables(rows, wide=wide)])
    return [word for line in text.splitlines() if line.startswith(("finemoe", "lru")) for word in line.split()[1:]]


def test_columns_without_values_are_left_out(decoded: Path, simulate: Any) -> None:
    """No prefills, nobody prefetches, one GPU and nothing that it is measured against."""
    (row,) = summaries(decoded, simulate, "--machine", "paper-a100", policies=("lru",))
    row |= {"tpot_over_no_offload": None, "tpot_over_best_known": None}
    text = "\n".join([figures_table([row]), *split_tables([row])])
    for word in ("TTFT", "over", "late", "fetch", "search", "exchg", "prefill"):
        assert word not in text.replace("over-", "").replace("\n", " ")
    for word in ("TPOT", "hit", "miss", "compute"):
        assert word in text.replace("com- ", "compute")


def test_wide_tables_have_every_percentile_and_the_prefills(plain: dict[str, Summary]) -> None:
    rows = list(plain.values())
    narrow, wide = (
        "\n".join([figures_table(rows, wide=wide), *split_tables(rows, wide=wide)]) for wide in (False, True)
    )
    for words in ("p50 / p95", "useful / late / wasted", "all / prefill / decode", "mean prefill", "peak expert"):
        assert words in wide
        assert words not in narrow


def test_the_parts_add_up_to_the_whole_that_is_printed(trace: Path, simulate: Any) -> None:
    rows = summaries(trace, simulate, "--sizes", "mixtral-8x7b", *NO_REFERENCES)
    for table in split_tables(rows, wide=True):
        for line in [each for each in table.splitlines() if each.startswith(POLICIES)]:
            whole, *parts = map(float, re.findall(r" (\d+(?:\.\d+)?)", line.removeprefix("tests.support")))
            assert whole == pytest.approx(sum(parts), abs=0.006 * len(parts))


# ---- a first look ----------------------------------------------------------------------------------------------------


def test_a_brief_report_has_the_figures_of_the_usual_one_in_five_columns(trace: Path, capsys: Any) -> None:
    policies = ("finemoe", "deepspeed", "lru")
    assert main(arguments(trace, policies=policies)) == 0
    usual = capsys.readouterr().out
    assert main(arguments(trace, "--brief", policies=policies)) == 0
    brief = capsys.readouterr().out
    assert brief.splitlines()[:2] == usual.splitlines()[:2]  # what the times stand for
    usual_rows, brief_rows = (
        {line.split("  ")[0]: re.split(" {2,}", line)[1:] for line in table.split("---\n")[-1].splitlines()}
        for table in (usual.split("\n\n")[1], brief.split("\n\n")[1])
    )
    assert brief_rows.keys() == usual_rows.keys()
    assert {len(row) for row in brief_rows.values()} == {4}
    marks = [line for line in usual.splitlines() if line.startswith(("†", "§", "*"))]
    assert marks
    assert {line[0] for line in brief.splitlines() if line.startswith(("†", "§", "*"))} == {line[0] for line in marks}
    for name, row in brief_rows.items():
        assert {row[2], row[3]} <= set(usual_rows[name])  # hit rate and traffic; times may have other units


def test_brief_and_wide_contradict_each_other(trace: Path, capsys: Any) -> None:
    assert main(arguments(trace, "--brief", "--wide")) == 2
    assert (
        capsys.readouterr().err
        == "error: --brief: cannot be combined with --wide: one prints few columns, the other all\n"
    )
