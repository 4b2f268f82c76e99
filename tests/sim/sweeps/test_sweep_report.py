"""What people read of a sweep, on terminals of 100 columns."""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from sim.sweeps.sweep import Sweep
from tests.support.run_helpers import EXPERT_BYTES
from tests.support.sweep_helpers import hand_made, simulated_sweep

LONG = "finemoe,prefetch_distance=6,capacity=1000+lhd,classes=8"
BEST_KNOWN = "perfect-prefetch,prefetch_distance=12+belady"
FOREIGN = "my_package.with_a_long_name.and_a_module:the_policy_of_my_dreams,setting=3"


def runs(policies: tuple[str, ...] = ("lru", "lfu"), **axes: Any) -> list[dict[str, Any]]:
    """A run for each combination, whose TPOT grows with the place of its policy."""
    answer = []
    for policy, *values in product(policies, *axes.values()):
        tpot = 0.01 * (1 + policies.index(policy)) + 1e-4 * values[-1] if axes else 0.01
        row = {"policy": policy, **dict(zip(axes, values, strict=True))}
        answer.append(
            row | {"tpot_s_mean": tpot, "hit_rate": 0.5, "best_known_tpot_s_mean": 0.008, "best_known": BEST_KNOWN}
        )
    return answer


def part(report: str, start: str) -> str:
    """The paragraphs of a report from the one that begins so up to the next heading."""
    (found,) = (each for each in report.split("\n\n") if each.startswith(start))
    return found


@pytest.fixture(scope="module")
def simulated(trace: Path) -> Sweep:
    return simulated_sweep(trace, policies=("lru", "map-ts", "belady", "no-offload"), parts=True, seeds=(0, 1))


def test_the_heading_says_what_was_simulated(simulated: Sweep) -> None:
    lines = simulated.report().splitlines()
    assert (
        lines[0]
        == ("Simulated, not measured: small.trace (SYNTHETIC routing in the shape of small) with the sizes of small")[
            :100
        ].rpartition(" ")[0]
    )
    text = " ".join(simulated.report().split())
    assert "on rtx3090x6 (6 × RTX 3090); the cache holds 8 to 16 of 32 experts (25% to 50%), 1.54 kB to 3.07 kB" in text
    assert (
        "axis policy: lru, map-ts, belady, no-offload axis cache.share: 0.25, 0.5 axis seed: 0, 1 16 runs: 16 done"
        in text
    )


def test_every_figure_of_the_table_is_a_mean_of_the_frame(simulated: Sweep) -> None:
    frame = simulated.frame
    for policy in ("lru", "map-ts", "belady", "no-offload"):
        (line,) = (row for row in part(simulated.report(), "TPOT, mean").splitlines() if re.match(rf"{policy}\b", row))
        shown = [float(word) for word in line.split() if re.fullmatch(r"\d+\.\d+", word)]
        own = frame[frame["policy"] == policy].groupby("cache.share")["tpot_s_mean"].mean() * 1e3
        assert shown == pytest.approx(own.tolist(), rel=1e-3)


def all_reports() -> Iterator[tuple[str, Sweep]]:
    many = runs(
        ("lru", LONG, FOREIGN, f"{FOREIGN}+lhd"), **{"cache.share": [i / 20 for i in range(1, 12)], "seed": [0, 1, 2]}
    )
    yield "many caches", hand_made(many, "policy", "cache.share", "seed")
    paths = [f"/a/folder/with/a/very/long/name/{'x' * 60}-{i}/pocket.trace" for i in range(3)]
    axes = {"trace": paths, "machine": ["rtx3090x6", "machines/mine.toml"], "batch_size": [1, 4], "seed": [0]}
    table = [{**row, "trace_kind": "fitted", "traced_model": "m" * 70} for row in runs((LONG, FOREIGN), **axes)]
    yield "paths", hand_made(table, "policy", *axes)
    regrets = [row | {"perfect_prefetch_tpot_s_mean": 0.0081, "belady_tpot_s_mean": 0.009} for row in many]
    yield "regret", hand_made(regrets, "policy", "cache.share", "seed")
    inverted = [row | {"hit_rate": row["tpot_s_mean"] * 10} for row in many]
    yield "inversions", hand_made(inverted, "policy", "cache.share", "seed")
    refused = [{"policy": LONG, "cache.share": 0.1, "status": "refused", "reason": "word " * 60 + "x" * 150}]
    yield "refused", hand_made(refused, "policy", "cache.share")


@pytest.mark.parametrize(("name", "sweep"), list(all_reports()))
def test_no_line_is_wider_than_a_terminal(name: str, sweep: Sweep) -> None:
    assert max(map(len, sweep.report().splitlines())) <= 100


@pytest.mark.parametrize(("name", "sweep"), list(all_reports()))
def test_no_row_of_a_table_is_broken(name: str, sweep: Sweep) -> None:
    """Below a line of dashes, every row of figures ends where the line does."""
    lines = sweep.report().split("\n\n")
    tables = [part.splitlines() for part in lines if re.search(r"^-+(  -+)+$", part, re.MULTILINE)]
    assert tables or name == "refused"
    for table in tables:
        (rule,) = (place for place, line in enumerate(table) if re.fullmatch(r"-+(  -+)+", line))
        figures = [
            line
            for line in table[rule - 1 :]
            if "  " in line and re.search(r"\d( –)?$", line) and not re.search("than |settings:", line)
        ]
        assert {len(line) for line in figures} == {len(table[rule])}


def test_long_names_are_shortened_alike_everywhere_and_explained() -> None:
    report = dict(all_reports())["inversions"].report()
    assert f"finemoe…a = {LONG}" in report
    assert f"my_package.with_a_long…b = {FOREIGN}" in " ".join(report.split())
    assert report.count(LONG) == 2  # the axis, the legend


def test_the_best_is_marked_and_ties_are_called_ties() -> None:
    table = [
        {"policy": policy, "seed": seed, "tpot_s_mean": tpot, "hit_rate": 0.5}
        for policy, figures in {"lru": (0.010, 0.012), "lfu": (0.011, 0.0119), "promoe": (0.02, 0.03)}.items()
        for seed, tpot in enumerate(figures)
    ]
    report = hand_made(table, "policy", "seed").report()
    tpot = part(report, "TPOT, mean")
    assert "● 11.00" in tpot
    assert "○ 11.45" in tpot
    assert "[20.00, 30.00]" in tpot
    assert [line.split() for line in part(report, "Best").splitlines()[3:]] == [["all", "runs", "lru", "lfu", "11.00"]]


def test_settings_are_counted_in_which_a_policy_is_best_or_ties() -> None:
    table = runs(**{"cache.share": [0.25, 0.5, 0.75]})
    for row in table:
        if row["cache.share"] == 0.5:
            row["tpot_s_mean"] = 0.01
    report = hand_made(table, "policy", "cache.share").report()
    assert "Best or a tie, of 3 settings: lru in 3, lfu in 1" in report


def test_one_seed_has_no_interval() -> None:
    report = hand_made(runs(seed=[0]), "policy", "seed").report()
    rows = [line.split() for line in part(report, "TPOT, mean").splitlines()[3:5]]
    assert rows == [["lru", "●", "10.00"], ["lfu", "20.00"]]
    assert "[10.00" not in report


def test_inversions_are_listed_with_what_they_cost() -> None:
    table = runs(**{"cache.share": [0.25, 0.5]})
    for row in table:
        row["hit_rate"] = 0.9 if row["policy"] == "lfu" else 0.4
        row["tpot_s_mean"] += 0.001 * (row["policy"] == "lfu") * (row["cache.share"] == 0.25)
    report = hand_made(table, "policy", "cache.share").report()
    lines = part(report, "Inversions").splitlines()
    assert lines[4].split() == ["lfu", "cache.share=0.25", "2", "of", "2", "+50.0", "+11.00"]


def test_inversions_are_counted_out_of_settings_with_both_policies() -> None:
    table = runs(**{"cache.share": [0.25, 0.5, 0.75]})
    for row in table:
        row["hit_rate"] = 0.9 if row["policy"] == "lfu" else 0.4
        if row["cache.share"] == 0.75 and row["policy"] == "lru":
            row |= {"status": "refused", "reason": "too large"}
    lines = part(hand_made(table, "policy", "cache.share").report(), "Inversions").splitlines()
    assert lines[4].split()[2:5] == ["2", "of", "2"]
    assert lines[5].split() == ["than", "lru"]
    assert "Inversions (better hit rate, worse TPOT): none." in hand_made(runs(), "policy").report()


def test_the_best_known_is_named_and_called_no_bound() -> None:
    report = hand_made(runs(seed=[0]), "policy", "seed").report()
    assert "1.25" in part(report, "TPOT over best known")
    text = " ".join(report.split())
    assert f"Best known, of clairvoyant and perfect prefetch with Belady's evictor: {BEST_KNOWN}. They" in text
    assert "are strong heuristics, not bounds: a ratio below 1 is possible" in text
    without = [{**row, "best_known_tpot_s_mean": None, "best_known": None} for row in runs(seed=[0])]
    assert "est known" not in hand_made(without, "policy", "seed").report()


def test_the_best_known_is_counted_once_per_setting_and_seed() -> None:
    table = runs(seed=[0, 1, 2])
    for row in table:
        row["best_known"] = "clairvoyant" if row["seed"] else BEST_KNOWN
    text = " ".join(hand_made(table, "policy", "seed").report().split())
    assert f"evictor: clairvoyant in 2, {BEST_KNOWN} in 1. They" in text


def test_where_prefetching_does_not_pay_the_figure_is_marked() -> None:
    table = runs(**{"cache.share": [0.25, 0.5], "seed": [0, 1]})
    for row in table:
        if row["policy"] == "lfu":
            row["own_cache_tpot_s_mean"] = row["tpot_s_mean"] + (0.001 if row["cache.share"] == 0.25 else -0.001)
    report = hand_made(table, "policy", "cache.share", "seed").report()
    (row,) = (line for line in part(report, "TPOT, mean").splitlines() if line.startswith("lfu"))
    assert row.split() == ["lfu", "20.05", "§", "20.05"]
    assert "§ lfu in 1 of 2 settings: prefetching does not pay here; a token takes longer" in " ".join(report.split())


def test_regret_is_split_where_it_was_asked_for(simulated: Sweep) -> None:
    assert "Regret" not in hand_made(runs(seed=[0]), "policy", "seed").report()
    table = [row | {"perfect_prefetch_tpot_s_mean": 0.009, "belady_tpot_s_mean": 0.0095} for row in runs(seed=[0])]
    row = part(hand_made(table, "policy", "seed").report(), "Regret").splitlines()[4]
    assert row.split() == ["all", "runs", "lru", "1.00", "(50%)", "0.50", "(25%)", "2.00"]
    assert "need not add up" in simulated.report()


def test_no_run_vanishes() -> None:
    table = runs(**{"cache.share": [0.25, 0.5], "seed": [0, 1]})
    for row in table[:3]:
        row.update(status="refused", reason="cache.share: too small")
    table[5].update(status="failed", reason="the policy broke\nover two lines")
    report = hand_made(table, "policy", "cache.share", "seed").report()
    assert "8 runs: 4 done, 3 refused, 1 failed" in report
    assert part(report, "Refused").splitlines() == [
        "Refused before they ran: 3 of 8 runs",
        "  3 runs: cache.share: too small",
        "      policy lru; every cache.share; every seed",
    ]
    assert part(report, "Failed").splitlines() == [
        "Failed while they ran: 1 of 8 runs",
        "  1 run: the policy broke over two lines",
        "      policy lfu; cache.share 0.25; seed 1",
    ]
    assert "# lru: has fewer seeds than other policies in some settings" in report


def test_the_most_frequent_reason_comes_first() -> None:
    table = [{**row, "status": "failed", "reason": "rare"} for row in runs()[:1]]
    table += [{**row, "status": "failed", "reason": "common"} for row in runs(seed=[0, 1])]
    lines = part(hand_made(table, "policy", "seed").report(), "Failed").splitlines()
    assert [lines[1], lines[3]] == ["  4 runs: common", "  1 run: rare"]


def test_a_policy_without_a_run_in_a_setting_has_a_dash_there_and_not_fewer_seeds() -> None:
    table = runs(**{"cache.share": [0.25, 0.5], "seed": [0, 1]})
    for row in table[:2]:
        row.update(status="refused", reason="too small")
    report = hand_made(table, "policy", "cache.share", "seed").report()
    assert "fewer seeds" not in report
    (row,) = (line for line in part(report, "TPOT, mean").splitlines() if line.startswith("lru"))
    assert row.split() == ["lru", "–", "●", "10.05"]


def test_policies_that_are_no_candidates_come_last() -> None:
    report = hand_made(runs(("belady", "lru", "clairvoyant", "lfu"), seed=[0]), "policy", "seed").report()
    names = [line.split()[0] for line in part(report, "TPOT, mean").splitlines()[3:7]]
    assert names == ["lru", "lfu", "belady", "clairvoyant"]


@pytest.mark.parametrize("status", ["refused", "failed"])
def test_a_sweep_without_a_finished_run_says_why(status: str) -> None:
    table = [{**row, "status": status, "reason": "no room"} for row in runs()]
    lines = hand_made(table, "policy").report().splitlines()
    assert lines[0] == "Simulated, not measured: no run finished"
    assert lines[2] == f"2 runs: 2 {status}"
    assert lines[-2:] == ["  2 runs: no room", "      every policy; seed 0"]


def test_an_empty_sweep_has_a_report() -> None:
    frame = hand_made(runs(), "policy").frame.iloc[:0]
    assert Sweep(frame=frame, axes=("policy",), experiment={}).report().splitlines()[-1] == "0 runs: none"


def test_marks_and_footnotes_are_those_of_all_tables() -> None:
    table = runs(("promoe", "belady", "no-offload"), seed=[0])
    table[0].update(prediction_charged=False, note="learnt from the future of others")
    table[2].update(preloaded=True, fits=False)
    report = hand_made(table, "policy", "seed").report()
    assert "promoe †" in part(report, "TPOT, mean")
    assert "no-offload * ‡" in part(report, "TPOT, mean")
    assert "\n† promoe: prediction time not charged; " in report
    assert "\n* no-offload: does not fit; " in report
    assert "\n‡ belady: knows future demands; excluded from the best" in report
    assert "\npromoe: learnt from the future of others" in report


def test_every_kind_of_routing_is_named_where_traces_vary() -> None:
    table = [
        {"policy": "lru", "trace": name, "trace_kind": kind, "tpot_s_mean": 0.01, "hit_rate": 0.5}
        for name, kind in (("a.trace", "captured"), ("b.trace", "synthetic"))
    ]
    text = " ".join(hand_made(table, "trace").report().split())
    assert "a.trace (captured routing of hand-made), b.trace (SYNTHETIC routing in the shape of hand-made)" in text


def test_a_cache_below_the_working_set_of_a_token_is_named_once_per_size(trace: Path) -> None:
    """Four layers of top-2: the experts of a token are eight."""
    shares = (0.125, 0.1875, 0.5)
    sweep = simulated_sweep(trace, policies=("lru", "belady"), shares=shares, seeds=(0,), machine="rtx3090")
    text = " ".join(sweep.report().split())
    for slots in (4, 6):
        assert f"The cache ({slots * EXPERT_BYTES / 1e3:.2f} kB) is smaller than the experts of one token" in text
    assert text.count("is smaller than the experts of one token") == 2
