"""`finemoe validate compare`: simulated beside measured."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from sim.__main__ import main as sim
from tests.support.compare_helpers import Edit, passed_off, slower
from tests.support.run_helpers import arguments, frames
from validate.__main__ import main
from validate.comparison.errors_by_metric import COLUMNS, COUNTS, METRICS, errors_of

POLICIES = ("finemoe", "lru", "oracle")


@pytest.fixture(scope="module")
def simulated(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "simulated"
    assert sim(arguments(trace, "--out", out, policies=POLICIES)) == 0
    return out


@pytest.fixture(scope="module")
def measured(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, but each time takes a quarter longer."""
    return passed_off(simulated, tmp_path_factory.mktemp("measured") / "measured", slower)


@pytest.fixture
def compared(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command; the answer is what it printed."""

    def run(*words: Any) -> str:
        capsys.readouterr()
        assert main(["compare", *map(str, words)]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command, which must end with 2; the answer is its one line."""

    def run(*words: Any) -> str:
        capsys.readouterr()
        assert main(["compare", *map(str, words)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        return captured.err.removeprefix("error: ").removesuffix("\n")

    return run


# ---- the numbers -----------------------------------------------------------------------------------------------------


COMPARED = [metric.column for metric in (*METRICS, *COUNTS)]


def summary(policy: str = "lru", **values: Any) -> pd.DataFrame:
    """A row in which all is 1 but what is given."""
    return pd.DataFrame([{"policy": policy} | dict.fromkeys(COMPARED, 1.0) | values])


def row(one: pd.DataFrame, other: pd.DataFrame, metric: str) -> dict[str, Any]:
    found = errors_of(one, other)
    (only,) = found[found["metric"] == metric].to_dict("records")
    return only


def test_errors_are_simulated_minus_measured_and_relative_to_what_was_measured() -> None:
    found = row(summary(tpot_s_mean=0.009), summary(tpot_s_mean=0.012), "tpot_s_mean")
    assert (found["policy"], found["unit"], found["simulated"], found["measured"]) == ("lru", "s", 0.009, 0.012)
    assert found["absolute_error"] == pytest.approx(-0.003)
    assert found["relative_error"] == pytest.approx(-0.25)


@pytest.mark.parametrize(("one", "other"), [(None, 0.5), (0.5, None), (None, None), (0.5, float("nan"))])
def test_a_value_missing_on_one_side_has_no_error(one: float | None, other: float | None) -> None:
    found = row(summary(ttft_s_mean=one), summary(ttft_s_mean=other), "ttft_s_mean")
    assert math.isnan(found["absolute_error"])
    assert math.isnan(found["relative_error"])


def test_nothing_measured_has_an_absolute_error_only() -> None:
    found = row(summary(late_rate=0.25), summary(late_rate=0.0), "late_rate")
    assert found["absolute_error"] == 0.25
    assert math.isnan(found["relative_error"])


def test_policies_are_those_in_both_in_the_order_of_the_simulation() -> None:
    one = pd.concat([summary("c"), summary("a"), summary("b")])
    other = pd.concat([summary("b"), summary("d"), summary("c")])
    assert list(dict.fromkeys(errors_of(one, other)["policy"])) == ["c", "b"]


def test_each_metric_appears_once_per_policy() -> None:
    found = errors_of(summary(), summary())
    assert found.columns.tolist() == list(COLUMNS)
    assert found["metric"].tolist() == COMPARED
    assert {
        *("ttft_s_mean", "ttft_s_p50", "ttft_s_p95", "tpot_s_mean", "tpot_s_p50", "tpot_s_p95"),
        *(
            "tpot_over_no_offload",
            "hit_rate",
            "hit_rate_prefill",
            "hit_rate_decode",
            "hit_or_late_rate",
            "late_rate",
            "miss_rate",
        ),
        *("prefetch_useful", "prefetch_late", "prefetch_wasted", "bytes_per_token", "makespan_s"),
        *("distinct_demands", "hits", "late", "misses"),
    } == set(found["metric"])


# ---- what is printed -------------------------------------------------------------------------------------------------


def test_a_run_a_quarter_slower_is_underestimated_by_a_fifth(compared: Any, simulated: Path, measured: Path) -> None:
    found = {(each["policy"], each["metric"]): each for each in json.loads(compared(simulated, measured, "--json"))}
    assert {policy for policy, _ in found} == set(POLICIES)
    for policy in POLICIES:
        for metric in ("ttft_s_mean", "tpot_s_p95", "makespan_s"):
            assert found[policy, metric]["relative_error"] == pytest.approx(-0.2)
        for metric in ("hit_rate", "hits", "late", "misses", "distinct_demands"):
            assert found[policy, metric]["absolute_error"] == 0
    assert found["lru", "prefetch_useful"]["simulated"] is None
    assert found["lru", "prefetch_useful"]["relative_error"] is None


def test_the_table_has_labels_and_readable_units(compared: Any, simulated: Path, measured: Path) -> None:
    printed = compared(simulated, measured)
    heading = printed.split("\n\n")[0]
    assert "Simulated on rtx3090x6 (6 × RTX 3090), measured on bench: 3 requests of small.trace" in heading
    assert "8 of 32 experts" in heading
    lru = next(block for block in printed.split("\n\n") if block.startswith("lru"))
    tpot_ms = frames(simulated)["summary"].set_index("policy").at["lru", "tpot_s_mean"] * 1e3
    (line,) = [line.split() for line in lru.splitlines() if line.startswith("TPOT mean")]
    assert line == ["TPOT", "mean", "ms", f"{tpot_ms:.2f}", f"{tpot_ms * 1.25:.2f}", f"{-tpot_ms / 4:+.2f}", "-20.0%"]
    (line,) = [line.split() for line in lru.splitlines() if line.startswith("prefetches useful")]
    assert line[2:] == ["%", "–", "–", "–", "–"]


def test_exact_counts_are_equal_or_show_the_difference(compared: Any, simulated: Path, tmp_path: Path) -> None:
    def one_hit_less(name: str, frame: pd.DataFrame) -> None:
        if name == "summary":
            frame.loc[frame["policy"] == "lru", "hits"] -= 1
            frame.loc[frame["policy"] == "lru", "misses"] += 1

    printed = compared(simulated, passed_off(simulated, tmp_path / "measured", one_hit_less))
    counts = printed.split("Exact counts")[1].splitlines()
    differences = {
        (words[0], words[1]): words[-1] for words in map(str.split, counts) if words and words[0] in POLICIES
    }
    assert differences == {
        (policy, count): {("lru", "hits"): "+1", ("lru", "misses"): "-1"}.get((policy, count), "equal")
        for policy in POLICIES
        for count in ("distinct", "hits", "late", "misses")
    }


def test_policies_in_one_folder_only_are_named(
    capsys: pytest.CaptureFixture[str], simulated: Path, trace: Path, tmp_path: Path
) -> None:
    assert sim(arguments(trace, "--out", tmp_path / "other", policies=("lru", "no-offload"))) == 0
    passed_off(tmp_path / "other", tmp_path / "measured")
    expected = [
        "only simulated, so not compared: finemoe, oracle",
        "only measured, so not compared: no-offload",
    ]
    capsys.readouterr()
    assert main(["compare", str(simulated), str(tmp_path / "measured")]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == expected
    assert main(["compare", str(simulated), str(tmp_path / "measured"), "--json"]) == 0
    captured = capsys.readouterr()
    assert {each["policy"] for each in json.loads(captured.out)} == {"lru"}
    assert captured.err.splitlines() == expected


def test_the_file_is_tidy_and_knows_both_runs(compared: Any, simulated: Path, measured: Path, tmp_path: Path) -> None:
    out = tmp_path / "below" / "a.parquet"
    printed = json.loads(compared(simulated, measured, "--json", "--out", out))
    found = pd.read_parquet(out)
    assert found.columns.tolist() == list(COLUMNS)
    assert not found.duplicated(["policy", "metric"]).any()
    for each, (_, values) in zip(printed, found.iterrows(), strict=True):
        for key, value in each.items():
            assert pd.isna(values[key]) if value is None else values[key] == value
    meta = json.loads(pq.read_schema(out).metadata[b"finemoe_lab"])
    said = [{run["summary"]["simulated"] for run in meta[kind]["runs"]} for kind in ("simulated", "measured")]
    assert said == [{True}, {False}]
    assert list(out.parent.iterdir()) == [out]


def test_comparing_loads_no_torch() -> None:
    code = "import sys, validate.cli.compare; print({'torch', 'transformers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# ---- what cannot be compared -----------------------------------------------------------------------------------------


def test_folders_the_other_way_round_are_refused(refused: Any, simulated: Path, measured: Path) -> None:
    said = refused(measured, simulated)
    assert said == f"{measured} has measured results; the first folder must have simulated ones"


def test_two_of_a_kind_are_refused(refused: Any, simulated: Path, measured: Path) -> None:
    assert (
        refused(simulated, simulated) == f"{simulated} has simulated results; the second folder must have measured ones"
    )
    assert refused(measured, measured) == f"{measured} has measured results; the first folder must have simulated ones"


@pytest.mark.parametrize(
    ("said", "path", "value"),
    [
        ("trace digest", ("provenance", "trace", "digest"), "ab"),
        ("cache_experts", ("provenance", "cache_experts"), 9),
        ("gpus", ("provenance", "machine", "gpus"), 2),
        ("demand_loading", ("provenance", "machine", "demand_loading"), "serial"),
        ("replicas", ("scenario", "replicas"), 2),
        ("batch_size", ("scenario", "batch_size"), 4),
        ("seed", ("scenario", "seed"), 1),
        ("train_split", ("scenario", "train_split"), 0.5),
    ],
)
def test_another_setting_is_refused_by_its_name_and_both_values(
    refused: Any, simulated: Path, tmp_path: Path, said: str, path: tuple[str, ...], value: Any
) -> None:
    *outer, field = path
    here: Any = json.loads((simulated / "meta.json").read_text())["runs"][0]
    for key in path:
        here = here[key]

    def edit(run: dict[str, Any]) -> None:
        for key in outer:
            run = run[key]
        run[field] = value

    other = passed_off(simulated, tmp_path / "measured", edit=edit)
    assert refused(simulated, other).startswith(f"{said} differs: {here} in {simulated}, {value} in {other}; ")


def sized(**sizes: Any) -> Edit:
    def edit(run: dict[str, Any]) -> None:
        run["provenance"]["model"] |= sizes

    return edit


@pytest.mark.parametrize(("field", "value"), [("hidden", 5), ("weight_bytes", 4.0), ("layers", 7)])
def test_another_size_of_the_model_is_refused(
    refused: Any, simulated: Path, tmp_path: Path, field: str, value: Any
) -> None:
    model = json.loads((simulated / "meta.json").read_text())["runs"][0]["provenance"]["model"]
    other = passed_off(simulated, tmp_path / "measured", edit=sized(**{field: value}))
    assert f"model {field} differs: {model[field]} in {simulated}, {value} in {other}" in refused(simulated, other)


def test_the_models_name_may_differ(compared: Any, simulated: Path, tmp_path: Path) -> None:
    assert compared(simulated, passed_off(simulated, tmp_path / "measured", edit=sized(name="mine")))


@pytest.mark.parametrize(("field", "value"), [("requests", 2), ("expert_slots", 9)])
def test_other_requests_or_slots_of_a_policy_are_refused(
    refused: Any, simulated: Path, tmp_path: Path, field: str, value: int
) -> None:
    def change(name: str, frame: pd.DataFrame) -> None:
        if name == "summary":
            frame.loc[frame["policy"] == "lru", field] = value

    other = passed_off(simulated, tmp_path / "measured", change)
    here = {"requests": 3, "expert_slots": 8}[field]
    assert f"{field} of lru differs: {here} in {simulated}, {value} in {other}" in refused(simulated, other)


def test_results_without_a_policy_in_common_are_refused(
    refused: Any, simulated: Path, trace: Path, tmp_path: Path
) -> None:
    assert sim(arguments(trace, "--out", tmp_path / "other", policies=("finemoe,capacity=9",))) == 0
    other = passed_off(tmp_path / "other", tmp_path / "measured")
    said = refused(simulated, other)
    assert said == f"no policy is in both: finemoe, lru, oracle in {simulated}, finemoe,capacity=9 in {other}"


def test_results_of_an_older_version_are_one_line(refused: Any, simulated: Path, tmp_path: Path) -> None:
    def older(name: str, frame: pd.DataFrame) -> None:
        if name == "summary":
            del frame["misses"]

    other = passed_off(simulated, tmp_path / "measured", older)
    assert refused(simulated, other) == f"{other}: its summary has no column misses; repeat the run"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--out", "a.csv"), "--out: must be a name that ends in .parquet, not a.csv"),
        (("--plot", "a.jpg"), "a.jpg: the name must end in .png, .svg or .pdf"),
        (("--iteration", 3), "--iteration: has no effect without --plot"),
    ],
)
def test_a_wrong_word_is_one_line(
    refused: Any, simulated: Path, measured: Path, more: tuple[Any, ...], said: str
) -> None:
    assert refused(simulated, measured, *more) == said


def test_a_folder_without_results_is_one_line(refused: Any, simulated: Path, tmp_path: Path) -> None:
    assert "meta.json is missing" in refused(simulated, tmp_path)


def test_a_file_that_cannot_be_written_is_one_line(
    refused: Any, simulated: Path, measured: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    said = refused(simulated, measured, "--out", tmp_path / "file" / "a.parquet")
    assert said == f"{tmp_path}/file/a.parquet cannot be written: Not a directory"


def test_a_brief_comparison_has_the_main_figures_of_each_policy(simulated: Path, measured: Path, compared: Any) -> None:
    figures = ["TTFT mean", "TPOT mean", "hit rate", "copied per token"]
    rows = [
        line
        for line in compared(simulated, measured, "--brief").splitlines()
        if any(f"{name}, " in line for name in figures)
    ]
    assert len(rows) == len(POLICIES) * len(figures)
    assert [row.split()[-1] for row in rows if "TTFT" in row or "TPOT" in row] == ["-20.0%"] * 2 * len(POLICIES)
    assert [row.split()[-1] for row in rows if "hit rate" in row] == ["+0.0%"] * len(POLICIES)


def test_what_must_agree_is_reported(compared: Any, simulated: Path, measured: Path) -> None:
    said = "What must agree agrees: lru, oracle, which copy on demand only, have equal hits, misses and bytes."
    for brief in ((), ("--brief",)):
        text = " ".join(compared(simulated, measured, *brief).split())
        assert said in text


@pytest.mark.parametrize(
    ("lru", "finemoe", "said"),
    [
        (1.25, 1.25, "TPOT of lru, which has none, is about as far off (-20.0%, finemoe -20.0%)."),
        (1.25, 1.27, "TPOT of lru, which has none, is about as far off (-20.0%, finemoe -21.3%)."),
        (1.25, 2.0, "the predictor (finemoe) is Python in the model's process"),
        (0.8, 1.25, "the predictor (finemoe) is Python in the model's process"),
        (1.08, 1.05, "the predictor (finemoe) is Python in the model's process"),
    ],
    ids=["as far off", "nearly as far off", "less far off", "the other way", "hardly off"],
)
def test_the_predictor_is_the_cause_unless_a_policy_without_it_is_as_far_off(
    compared: Any, simulated: Path, tmp_path: Path, lru: float, finemoe: float, said: str
) -> None:
    def longer(name: str, frame: pd.DataFrame) -> None:
        if name == "summary":
            frame["tpot_s_mean"] *= frame["policy"].map({"lru": lru, "finemoe": finemoe, "oracle": 1.0})

    def on_a_cpu(run: dict[str, Any]) -> None:
        run["provenance"]["machine"]["name"] = "cpu"

    measured = passed_off(simulated, tmp_path / "measured", longer, on_a_cpu)
    text = " ".join(compared(simulated, measured).split())
    causes = ("is Python in the model's process", "the predictor is not the main cause")
    assert said in text
    assert sum(cause in text for cause in causes) == 1
