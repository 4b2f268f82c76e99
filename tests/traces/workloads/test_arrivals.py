"""Arrival processes, samples of workloads, and their descriptions."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from common.errors import UserError
from common.figures import figure, panels
from traces.__main__ import main
from traces.workloads.arrivals import (
    Workload,
    counts_per,
    describe,
    gamma_arrivals,
    poisson_arrivals,
    sample,
    with_lengths_of,
)
from traces.workloads.workload_figure import scale_lengths
from traces.workloads.workload_files import read_workload

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def workload(arrival_s: list[float], **changes: Any) -> Workload:
    rows = np.arange(len(arrival_s))
    known = {"prompt_tokens": 10 + rows, "output_tokens": 100 + rows, "source": "mine"}
    return Workload(arrival_s=np.array(arrival_s), **(known | changes))


def random_workload(seed: int, requests: int = 50) -> Workload:
    return workload(poisson_arrivals(requests, 3.0, np.random.default_rng(seed)).tolist())


# What is said about a workload


def test_rates_are_those_worked_out_by_hand() -> None:
    # Gaps 1, 59, 60: mean 40 s, so 0.025/s; deviations −39, 19, 20, so variance (1521 + 361 + 400) / 3 = 760.667,
    # standard deviation 27.580, over 40: 0.68950. Minutes hold 2 (0, 1), 1 (60) and 1 (120) arrivals.
    found = describe(workload([0, 1, 60, 120]))
    assert found["duration_s"] == 120
    assert found["rate_per_s"] == 0.025
    assert found["gap_cv"] == pytest.approx(0.68950, abs=1e-5)
    assert found["peak_per_minute"] == 2
    assert counts_per(workload([0, 1, 60, 120]), 60).tolist() == [2, 1, 1]


def test_lengths_are_those_worked_out_by_hand() -> None:
    # Sorted 1, 2, 3, 10: mean 4, median 2.5; p95 lies 0.95 × 3 = 2.85 gaps up, so 3 + 0.85 × 7 = 8.95.
    found = describe(workload([0, 1, 2, 3], prompt_tokens=np.array([3, 10, 1, 2])))
    assert found["prompt_tokens"] == {"mean": 4.0, "p50": 2.5, "p95": pytest.approx(8.95), "max": 10}


def test_what_all_arrives_at_once_has_no_rate() -> None:
    found = describe(workload([0, 0, 0]))
    assert (found["rate_per_s"], found["gap_cv"], found["peak_per_minute"]) == (None, None, 3)
    assert json.loads(json.dumps(found)) == found


# Sampling


def test_a_sample_keeps_the_order_of_time_and_the_rows_whole() -> None:
    whole = random_workload(0)
    drawn = sample(whole, np.random.default_rng(1), requests=20)
    rows = drawn.prompt_tokens - 10  # lengths tell which row it was
    assert len(set(rows.tolist())) == 20
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(drawn.output_tokens, whole.output_tokens[rows])
    np.testing.assert_array_equal(drawn.arrival_s, whole.arrival_s[rows] - whole.arrival_s[rows[0]])


def test_every_request_is_as_likely_to_be_drawn() -> None:
    rng, whole = np.random.default_rng(0), random_workload(0, requests=10)
    rows = np.concatenate([sample(whole, rng, requests=3).prompt_tokens - 10 for _ in range(1000)])
    assert stats.chisquare(np.bincount(rows, minlength=10)).pvalue > 0.01


@pytest.mark.parametrize("rate", [0.01, 1.0, 2.91, 1000.0])
@pytest.mark.parametrize("requests", [2, 20, None])
def test_stretching_gives_the_rate_and_keeps_order_and_proportions(rate: float, requests: int | None) -> None:
    whole = random_workload(3)
    plain = sample(whole, np.random.default_rng(1), requests=requests)
    drawn = sample(whole, np.random.default_rng(1), requests=requests, rate=rate)
    assert drawn.rate_per_s == pytest.approx(rate, rel=1e-15)
    assert drawn.arrival_s[0] == 0
    assert (np.diff(drawn.arrival_s) >= 0).all()
    np.testing.assert_array_equal(drawn.prompt_tokens, plain.prompt_tokens)
    np.testing.assert_allclose(drawn.arrival_s / drawn.duration_s, plain.arrival_s / plain.duration_s, rtol=1e-12)


def test_a_sample_that_cannot_be_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match=r"^requests: must be from 1 to 50, the size of mine, not 51$"):
        sample(random_workload(0), rng, requests=51)
    with pytest.raises(UserError, match=r"^rate: cannot be 2: all requests of mine arrive at once$"):
        sample(workload([0, 0]), rng, rate=2)
    for rate in (-1, 1e-320, 1e300):
        with pytest.raises(UserError, match=rf"^rate: must be from 1e-9 to 1e9, not {re.escape(f'{rate:g}')}$"):
            sample(workload([0, 1]), rng, rate=rate)


# Processes


def test_a_gamma_process_with_burstiness_1_is_a_poisson_process() -> None:
    gaps = np.diff(gamma_arrivals(5001, 2.0, 1.0, np.random.default_rng(0)))
    assert stats.kstest(gaps, "expon", args=(0, 0.5)).pvalue > 0.05
    other = np.diff(poisson_arrivals(5001, 2.0, np.random.default_rng(1)))
    assert stats.ks_2samp(gaps, other).pvalue > 0.05


def test_a_gamma_process_with_another_burstiness_is_none() -> None:
    gaps = np.diff(gamma_arrivals(5001, 2.0, 1.3, np.random.default_rng(0)))
    assert stats.kstest(gaps, "expon", args=(0, 0.5)).pvalue < 1e-6


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 2.0])
def test_a_gamma_process_has_the_stated_rate_and_burstiness(burstiness: float) -> None:
    arrival_s = gamma_arrivals(200_001, 2.91, burstiness, np.random.default_rng(0))
    gaps = np.diff(arrival_s)
    assert arrival_s[0] == 0
    # The mean of 200 000 gaps is off by burstiness / √200 000 < 0.5 % as a rule.
    assert gaps.mean() == pytest.approx(1 / 2.91, rel=0.015)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness, rel=0.03)


def test_the_least_rate_and_the_largest_burstiness_can_be_described() -> None:
    gaps = gamma_arrivals(5, 1e-9, 1e6, np.random.default_rng(0))
    assert describe(replace(workload([0, 1, 2, 3, 4]), arrival_s=gaps))["peak_per_minute"] >= 1
    with pytest.raises(UserError, match=r"^burstiness: must be from 1e-6 to 1e6, not 1e\+200$"):
        gamma_arrivals(5, 1, 1e200, np.random.default_rng(0))


def test_lengths_that_are_drawn_keep_prompt_and_output_together() -> None:
    arrival_s = poisson_arrivals(500, 1.0, np.random.default_rng(0))
    drawn = with_lengths_of(arrival_s, workload([0, 1, 2]), np.random.default_rng(1), "a process")
    assert set(zip(drawn.prompt_tokens.tolist(), drawn.output_tokens.tolist(), strict=True)) == {
        (10, 100),
        (11, 101),
        (12, 102),
    }


# The command


@pytest.fixture
def azure(tmp_path: Path) -> Path:
    rows = [f"2023-11-16 18:15:{second:02}.5000000,{100 + second},{1 + second}\n" for second in range(0, 60, 2)]
    (tmp_path / "azure.csv").write_text(AZURE + "".join(rows))
    return tmp_path / "azure.csv"


def arrivals(*words: Any) -> int:
    return main(["arrivals", *map(str, words)])


def test_the_command_shows_rates_and_lengths(azure: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert arrivals(azure) == 0
    out = capsys.readouterr().out
    # 29 gaps of 2 s: 58 s, 0.5/s, all alike.
    for words in ("azure.csv", "58.0 s", "0.500 requests/s", "30 requests in a minute", "variation 0.00"):
        assert words in out
    assert arrivals(azure, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rate_per_s"] == 0.5


def test_the_command_writes_what_it_has_drawn(azure: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = azure.with_name("drawn.parquet")
    assert arrivals(azure, "--requests", 10, "--rate", 2.91, "--seed", 4, "--out", out, "--json") == 0
    written = read_workload(out)
    expected = sample(read_workload(azure), np.random.default_rng(4), requests=10, rate=2.91)
    for name in ("arrival_s", "prompt_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(written, name), getattr(expected, name))
    assert written.source == expected.source == "10 of 30 requests of azure.csv at 2.91/s"
    assert json.loads(capsys.readouterr().out) == describe(written)
    reported = json.loads(pq.read_schema(out).metadata[b"finemoe_lab"])
    assert (reported["seed"], reported["rate"], reported["requests"]) == (4, 2.91, 10)
    assert sorted(file.name for file in out.parent.iterdir()) == ["azure.csv", "drawn.parquet"]


def test_equal_seeds_give_equal_bytes_and_others_do_not(azure: Path) -> None:
    one, same, other = (azure.with_name(f"{name}.parquet") for name in ("one", "same", "other"))
    for out, seed in ((one, 1), (same, 1), (other, 2)):
        words = ("gamma", "--rate", 2, "--requests", 50, "--burstiness", 2, "--lengths", azure, "--seed", seed)
        assert arrivals(*words, "--out", out) == 0
    assert one.read_bytes() == same.read_bytes()
    assert one.read_bytes() != other.read_bytes()


@pytest.mark.parametrize(
    ("least", "most", "scale", "ticks"),
    [
        (37, 38, "linear", ["37", "38"]),
        (1000, 3100, "linear", ["1,000", "2,000", "3,000"]),
        (6, 110, "log", ["10", "20", "50", "100"]),
        (3, 14_051, "log", ["10", "100", "1,000", "10,000"]),
    ],
)
def test_an_axis_of_lengths_has_a_few_ticks_that_can_be_read(
    least: int, most: int, scale: str, ticks: list[str]
) -> None:
    (axes,) = panels(figure(3, 3.6), 1, 1).flat
    axes.hist([least], bins=[least, most])
    scale_lengths(axes, least=least, most=most)
    low, high = axes.get_xlim()
    shown = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    assert axes.get_xscale() == scale
    assert [label.get_text() for place, label in shown if low <= place <= high] == ticks
    assert len(axes.get_xticks(minor=True)) == 0


def test_the_picture_has_axes_with_units(azure: Path) -> None:
    assert arrivals(azure, "--plot", azure.with_name("a.svg")) == 0
    picture = azure.with_name("a.svg").read_text()  # matplotlib notes texts in comments
    for words in ("since the first arrival [s]", "requests per second", "prompt length [tokens]", "azure.csv"):
        assert words in picture
    fixed = ("poisson", "--rate", 0.1, "--requests", 100, "--prompt-tokens", 37, "--output-tokens", 127)
    assert arrivals(*fixed, "--plot", azure.with_name("b.svg")) == 0
    picture = azure.with_name("b.svg").read_text()
    for words in (
        "since the first arrival [min]",
        "requests per minute",
        "poisson process at 0.1/s, 37 prompt and 127",
    ):
        assert words in picture


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("gone.csv", "gone.csv: does not exist"),
        ("poisson --requests 5", "--rate: is required for poisson"),
        ("poisson --rate 5", "--requests: is required for poisson"),
        ("gamma --rate 5 --requests 5", "--burstiness: is required for gamma; 1 gives a Poisson process"),
        ("gamma --rate 5 --requests 5 --burstiness 0", "--burstiness: must be above 0, not 0.0"),
        (
            "poisson --rate 5 --requests 5 --burstiness 2",
            "--burstiness: must be 1 for poisson, not 2; use gamma for other values",
        ),
        (
            "poisson --rate 5 --requests 5 --prompt-tokens 5",
            "--lengths: poisson needs either --lengths, or both --prompt-tokens and --output-tokens",
        ),
        (
            "poisson --rate 5 --requests 5 --prompt-tokens 5 --output-tokens 0",
            "--output-tokens: must be at least 1 and at most 2147483647, not 0",
        ),
        ("poisson --rate 0 --requests 5", "--rate: must be above 0, not 0.0"),
        ("poisson --rate 5 --requests 0", "--requests: must be at least 1, not 0"),
        ("poisson --rate 5 --requests 5 --seed -1", "--seed: must be at least 0, not -1"),
        ("a.csv --out b.csv", "--out: must be a name that ends in .parquet, not b.csv"),
        ("a.csv --plot a.txt", "--plot: must be a name that ends in .png, .svg or .pdf, not a.txt"),
        ("a.csv --burstiness 2", "--burstiness: applies only to poisson and gamma, not to a.csv"),
    ],
)
def test_a_mistake_is_reported_in_one_line(words: str, error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert arrivals(*words.split()) == 2
    assert capsys.readouterr().err == f"error: {error}\n"
