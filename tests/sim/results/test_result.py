"""A result: what a run gave, and the folder that it reads back from."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from common.errors import UserError
from policies.base import Policy, Prefetcher
from policies.evictors.recency import LeastRecentlyUsed
from policies.registry import NAMED
from policies.types import Setup
from sim import CacheSize, Result, Scenario, simulate
from sim.results.result import SCHEMA_VERSION, read_results, write_results
from tests.support.run_helpers import SHAPE


def scenario_of(trace: Path) -> Scenario:
    return Scenario(trace, policy="finemoe,capacity=9", machine="rtx3090x6", cache=CacheSize(share=0.25))


@pytest.fixture
def scenario(trace: Path) -> Scenario:
    return scenario_of(trace)


@pytest.fixture(scope="module")
def result(trace: Path) -> Result:
    """For tests that only read it."""
    return simulate(scenario_of(trace))


@pytest.mark.parametrize("detail", ["requests", "iterations", "events"])
def test_a_result_reads_back_exactly_what_was_written(scenario: Scenario, out: Path, detail: Any) -> None:
    result = simulate(replace(scenario, detail=detail))
    result.write(out)
    again = Result.read(out)
    assert again == result
    for name in ("requests", "iterations", "events"):
        one, other = getattr(result, name), getattr(again, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtypes.equals(other.dtypes)
    if result.events is not None:
        assert result.events["experts"].tolist() == again.events["experts"].tolist()


def test_a_result_without_prefill_keeps_what_is_missing(decoded: Path, out: Path) -> None:
    result = simulate(Scenario(decoded, policy="lru"))
    assert result.summary["ttft_s_mean"] is None
    assert result.requests["ttft_s"].isna().all()
    result.write(out)
    assert Result.read(out) == result


def test_results_differ_if_one_bit_does(result: Result) -> None:
    requests = result.requests.copy()
    requests.loc[0, "end_s"] = np.nextafter(requests.loc[0, "end_s"], np.inf)
    assert replace(result, requests=requests) != result
    assert replace(result, summary=result.summary | {"hits": result.summary["hits"] + 1}) != result
    assert replace(result, requests=result.requests.copy()) == result


def test_a_result_needs_three_lines_in_a_notebook(trace: Path) -> None:
    result = simulate(Scenario(trace, policy="lru", cache=CacheSize(experts=8)))
    assert result.summary["policy"] == "lru"
    assert result.provenance["cache_experts"] == 8
    assert result.provenance["model"]["experts"] == SHAPE.experts
    assert len(result.content_hash or "") == 64


def test_figures_do_not_depend_on_the_number_of_threads(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()

    class Counting(Prefetcher):
        def start(self, setup: Setup) -> None:
            seen.update(library["num_threads"] for library in threadpool_info())

        def on_batch(self, batch: Any) -> tuple[()]:
            seen.update(library["num_threads"] for library in threadpool_info())
            return ()

    monkeypatch.setitem(NAMED, "counting", f"{__name__}:made")
    monkeypatch.setattr(
        sys.modules[__name__], "made", lambda: Policy(prefetcher=Counting(), evictor=LeastRecentlyUsed()), raising=False
    )
    with threadpool_limits(2):
        simulate(Scenario(trace, policy="counting"))
    assert seen == {1}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_policy_draws_by_the_scenarios_seed(trace: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    drawn: list[int] = []

    class Drawing(Prefetcher):
        def start(self, setup: Setup) -> None:
            drawn.append(int(setup.rng.integers(1 << 40)))

    monkeypatch.setitem(NAMED, "drawing", f"{__name__}:made")
    monkeypatch.setattr(
        sys.modules[__name__], "made", lambda: Policy(prefetcher=Drawing(), evictor=LeastRecentlyUsed()), raising=False
    )
    simulate(Scenario(trace, policy="drawing", seed=seed))
    assert drawn == [int(np.random.default_rng(seed).integers(1 << 40))]


def test_several_results_share_a_folder(scenario: Scenario, out: Path) -> None:
    results = [simulate(replace(scenario, policy=policy)) for policy in ("lru", "belady", "finemoe")]
    write_results(out, results)
    assert read_results(out) == results
    said = r"has 3 results \(lru, belady, finemoe\), not one; read them with read_results$"
    with pytest.raises(UserError, match=said):
        Result.read(out)


def test_results_of_different_detail_share_a_folder(scenario: Scenario, out: Path) -> None:
    details: list[Any] = ["requests", "events", "iterations"]
    policies = ["lru", "belady", "finemoe"]
    results = [
        simulate(replace(scenario, policy=policy, detail=detail))
        for policy, detail in zip(policies, details, strict=True)
    ]
    write_results(out, results)
    assert read_results(out) == results


def test_a_result_trimmed_is_the_result_of_less_detail(scenario: Scenario) -> None:
    fine = simulate(replace(scenario, detail="events"))
    for detail in ("requests", "iterations", "events"):
        less: Any = replace(scenario, detail=detail, label="mine")
        assert fine.trimmed(less) == simulate(less)


def test_two_results_of_one_policy_do_not_share_a_folder(scenario: Scenario, out: Path) -> None:
    """Their rows would be indistinguishable."""
    results = [simulate(replace(scenario, seed=seed)) for seed in (0, 1)]
    with pytest.raises(UserError, match=r"2 results of policy finemoe,capacity=9; a folder has one result per policy$"):
        write_results(out, results)
    assert not out.exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda out: flip(out / "requests.parquet", -200), r"requests\.parquet:? .*"),
        (lambda out: (out / "iterations.parquet").unlink(), r"iterations\.parquet: is missing$"),
        (
            lambda out: shutil.copy(out / "summary.parquet", out / "requests.parquet"),
            r"requests\.parquet was changed after it was written$",
        ),
        (
            lambda out: replace_in(out / "meta.json", '"seed": 0', '"seed": 1'),
            r"meta\.json: field sha256: does not match; the file was changed after it was written$",
        ),
    ],
    ids=["a flipped bit", "a table gone", "a table of another kind", "an edited setting"],
)
def test_a_changed_file_is_an_error_of_one_line(result: Result, out: Path, spoil: Any, said: str) -> None:
    result.write(out)
    spoil(out)
    with pytest.raises(UserError, match=said) as raised:
        Result.read(out)
    assert "\n" not in str(raised.value)


def replace_in(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def test_a_result_of_another_schema_is_one_line(result: Result, out: Path) -> None:
    result.write(out)
    meta = json.loads((out / "meta.json").read_text())
    (out / "meta.json").write_text(json.dumps(meta | {"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(UserError, match=f"field schema_version: must be {SCHEMA_VERSION}, not {SCHEMA_VERSION + 1}; "):
        Result.read(out)


def test_a_folder_without_results_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"meta\.json is missing; "):
        Result.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", r"meta\.json: cannot be read: "),
        ("[" * 100_000, r"meta\.json: cannot be read: "),
        ("[]", r"meta\.json: is not a JSON object$"),
        ("{}", r" is not a folder of results$"),
        (f'{{"schema_version": {SCHEMA_VERSION}, "runs": NaN}}', r"meta\.json: field sha256: does not match; "),
        (f'{{"schema_version": {SCHEMA_VERSION}, "runs": "\\ud800"}}', r"meta\.json: field sha256: does not match; "),
    ],
)
def test_what_no_command_wrote_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(UserError, match=said):
        Result.read(tmp_path)


def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "meta.json").mkdir()
    with pytest.raises(UserError, match=r"meta\.json: cannot be read: Is a directory$"):
        Result.read(tmp_path)


def test_a_label_is_what_tables_call_a_run(scenario: Scenario, result: Result) -> None:
    assert simulate(replace(scenario, label="mine")).summary["label"] == "mine"
    assert result.summary["label"] == scenario.policy
