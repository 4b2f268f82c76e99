"""Figures 1b, 10, 12, 13 and 17: what their tables say of runs, and what their claims say of tables."""

import math
from collections.abc import Mapping

import pandas as pd
import pytest

from sim.paper.claims.claim_values import rising
from sim.paper.figures.figure_1b import AT_TARGET, RUN, Figure1b, fast_and_large, least_memory, slow_and_small
from sim.paper.figures.figure_10 import Figure10
from sim.paper.figures.figure_12 import Figure12, narrowing
from sim.paper.figures.figure_13 import WIDE_LINK, Figure13, behind_moe_infinity, largest_change, smaller_gains
from sim.paper.figures.figure_17 import WAITING, Figure17, most_other
from sim.paper.figures.lineup import CLAIRVOYANT, hit_rate_gains, lineup_table, main_forms, reductions
from sim.paper.paper_systems import NO_OFFLOAD, OTHER_FORMS, SYSTEMS, PaperSystem
from sim.paper.study import SECOND_TESTBED, TESTBED

NAMES = [system.name for system in SYSTEMS]
TPOT_S = dict(zip(NAMES, (0.2, 0.4, 0.25, 0.5, 1.0), strict=True))


def row(system: PaperSystem, *, model: str = "Mixtral", footing: str = "even", **values: object) -> dict[str, object]:
    """A run's labels and the columns of its summary that figures read."""
    labels = {"model": model, "prompts": "chat", "footing": footing, "machine": TESTBED, "cache_gb": 12.0}
    rates = {"hit_rate": 0.5, "late_rate": 0.2, "miss_rate": 0.3, "hit_or_late_rate": 0.7}
    done = {"status": "done", "reason": None, "expert_memory_bytes": 12e9, "ttft_s_mean": 1.0}
    tpot_s = {"tpot_s_mean": TPOT_S.get(system.name, 0.01)}
    return {**labels, "system": system.name, "form": system.form, **done, **rates, **tpot_s, **values}


def runs_of(*rows: Mapping[str, object]) -> pd.DataFrame:
    return pd.DataFrame([dict(each) for each in rows])


def test_each_footing_counts_its_own_hits() -> None:
    table = lineup_table(runs_of(row(SYSTEMS[0]), row(SYSTEMS[0], footing="released")))
    assert table["counted_hit_rate"].tolist() == [0.5, 0.7]


def test_a_refused_run_has_no_times() -> None:
    table = lineup_table(runs_of({**row(SYSTEMS[0]), "status": "refused", "tpot_s_mean": None, "hit_rate": None}))
    assert table[["tpot_ms", "counted_hit_rate"]].isna().all(axis=None)
    assert lineup_table(runs_of({"footing": "even", "status": "refused"}))["ttft_ms"].isna().all()


def test_claims_count_the_main_form() -> None:
    other = OTHER_FORMS[0]
    table = lineup_table(runs_of(*map(row, SYSTEMS), row(other, tpot_s_mean=0.1)))
    assert other.form not in main_forms(table)["form"].tolist()
    (found,) = reductions(table, "tpot_ms", other.name).to_dict("records")
    assert (found["footing"], found["trace"], found["value"]) == ("even", "Mixtral, chat", pytest.approx(-0.5))
    assert found["detail"] == ""


def test_a_reduction_has_clairvoyants_reduction_as_detail() -> None:
    table = lineup_table(runs_of(*map(row, SYSTEMS), row(CLAIRVOYANT, tpot_s_mean=0.1)))
    (found,) = reductions(table, "tpot_ms", "DeepSpeed").to_dict("records")
    assert (found["value"], found["detail"]) == (pytest.approx(-0.8), "knowing every demand (first prompts): −90 %")


def test_a_gain_in_hit_rate_is_a_ratio_and_its_points_are_the_detail() -> None:
    table = lineup_table(runs_of(row(SYSTEMS[0], hit_rate=0.75), row(SYSTEMS[1])))
    (found,) = hit_rate_gains(table, SYSTEMS[1].name).to_dict("records")
    assert found["value"] == pytest.approx(0.5)
    assert "+25.0 points" in found["detail"]


def test_an_order_holds_only_as_a_whole_and_not_with_a_system_missing() -> None:
    table = lineup_table(runs_of(*map(row, SYSTEMS)))
    came_out = "FineMoE < ProMoE < MoE-Infinity < Mixtral-Offloading < DeepSpeed"
    assert rising(main_forms(table), "tpot_ms", came_out.split(" < "))["value"].tolist() == [1]
    wrong = rising(main_forms(table), "tpot_ms", NAMES)
    assert (wrong["value"].tolist(), wrong["detail"].tolist()) == ([0], [came_out])
    missing = rising(main_forms(table[table["system"] != "ProMoE"]), "tpot_ms", NAMES)
    assert math.isnan(missing["value"].item())


def test_deepspeed_is_the_slowest_without_a_miss() -> None:
    claim = next(each for each in Figure10().claims() if each.key == "10-deepspeed-worst")
    rows = [row(system, ttft_s_mean=TPOT_S[system.name]) for system in SYSTEMS]
    assert claim.ours({"10": lineup_table(runs_of(*rows))})["value"].tolist() == [0]
    rows[-1]["miss_rate"] = 0.0
    assert claim.ours({"10": lineup_table(runs_of(*rows))})["value"].tolist() == [1]


def over_sizes(times_s: Mapping[float, Mapping[str, float]]) -> pd.DataFrame:
    return runs_of(
        *(
            row(system, cache_gb=size, tpot_s_mean=times[system.name])
            for size, times in times_s.items()
            for system in SYSTEMS
        )
    )


def scaled(factor: float) -> dict[str, float]:
    return {name: seconds * factor for name, seconds in TPOT_S.items()}


def test_gaps_narrow_if_none_is_larger_than_the_one_before() -> None:
    narrower = lineup_table(over_sizes({6.0: scaled(1), 12.0: scaled(0.5), 24.0: scaled(0.5)}))
    assert narrowing(narrower)["value"].tolist() == [1]
    gaps = "6 GB 338 ms, 12 GB 169 ms, 24 GB 169 ms; without DeepSpeed 6 GB 183 ms, 12 GB 92 ms, 24 GB 92 ms"
    shares = "as shares of the baselines' TPOT it does not hold: 6 GB 52.5 %, 12 GB 52.5 %, 24 GB 52.5 %"
    assert narrowing(narrower)["detail"].tolist() == [f"{gaps}; {shares}"]
    wider = lineup_table(over_sizes({6.0: scaled(0.4), 12.0: scaled(0.5), 24.0: scaled(0.1)}))
    assert narrowing(wider)["value"].tolist() == [0]
    assert math.isnan(narrowing(lineup_table(over_sizes({6.0: scaled(1)})))["value"].item())


def test_gaps_may_narrow_in_ms_and_widen_as_shares() -> None:
    without_finemoe = {name: seconds for name, seconds in scaled(0.5).items() if name != "FineMoE"}
    table = lineup_table(over_sizes({6.0: scaled(1), 12.0: {"FineMoE": 0.02, **without_finemoe}}))
    (found,) = narrowing(table).to_dict("records")
    assert found["value"] == 1
    assert "it does not hold: 6 GB 52.5 %, 12 GB 90.5 %" in found["detail"]
    back = lineup_table(over_sizes({6.0: scaled(1), 12.0: {"FineMoE": 0.15, **without_finemoe}}))
    assert "it holds: 6 GB 52.5 %, 12 GB 28.8 %" in narrowing(back)["detail"].item()


def trade_off(sizes: Mapping[float, Mapping[str, float]]) -> pd.DataFrame:
    """Figure 1b's table, with 48 GB of experts and 10 ms per token if all of them are cached."""
    runs = pd.concat([over_sizes(sizes), runs_of(row(NO_OFFLOAD, expert_memory_bytes=48e9))], ignore_index=True)
    return Figure1b().table(None, runs)  # type: ignore[arg-type]  # needs no study


def test_memory_is_read_on_the_line_between_two_runs() -> None:
    table = trade_off({6.0: scaled(1), 96.0: scaled(0.01)})
    needed = table[table["point"] == AT_TARGET].set_index("system")["memory_gb"]
    assert table[table["point"] == RUN]["memory_gb"].max() == 48
    assert needed["FineMoE"] == pytest.approx(6 + 42 * math.log(200 / 20) / math.log(200 / 2))
    assert least_memory(table)["value"].tolist() == [1]
    assert slow_and_small(table)["value"].tolist() == [1]
    assert fast_and_large(table)["value"].tolist() == [1]


def test_least_memory_is_not_judged_if_the_smallest_cache_is_enough_for_two() -> None:
    assert math.isnan(least_memory(trade_off({6.0: scaled(0.05), 96.0: scaled(0.01)}))["value"].item())


def test_memory_that_is_never_enough_is_missing() -> None:
    table = trade_off({6.0: scaled(1), 96.0: scaled(0.5)})
    assert table[(table["point"] == AT_TARGET) & (table["system"] == "FineMoE")]["memory_gb"].isna().all()


def two_machines(**on_a100: object) -> pd.DataFrame:
    """Equal runs on both machines, except for FineMoE on the A100."""
    rows = [row(system, machine=machine) for machine in (TESTBED, SECOND_TESTBED) for system in SYSTEMS]
    rows[len(SYSTEMS)] |= on_a100
    return lineup_table(runs_of(*rows, row(SYSTEMS[0], machine=WIDE_LINK)))


def test_gains_are_smaller_only_if_both_times_gain_less() -> None:
    assert smaller_gains(two_machines(tpot_s_mean=0.24, ttft_s_mean=1.1))["value"].tolist() == [1]
    assert smaller_gains(two_machines(tpot_s_mean=0.24, ttft_s_mean=0.9))["value"].tolist() == [0]


def test_the_largest_change_of_a_hit_rate_counts() -> None:
    (found,) = largest_change(two_machines(hit_rate=0.38)).to_dict("records")
    assert found["value"] == pytest.approx(0.12)
    assert found["detail"] == "FineMoE -12.0 points, FineMoE -12.0, on a link of 192 GB/s +0.0"


def test_the_papers_weak_spot_is_judged_only_on_mixtral_and_the_a100() -> None:
    assert behind_moe_infinity(two_machines(tpot_s_mean=0.41))["value"].tolist() == [1]
    assert behind_moe_infinity(two_machines())["value"].tolist() == [0]
    assert behind_moe_infinity(two_machines().assign(model="Phi")).empty


def split(system: PaperSystem, searching_s: float) -> dict[str, object]:
    parts = ("compute", "exchange", "overhead", "miss_wait", "late_wait", "wave_wait", "prefetch_wait")
    times = {f"{phase}_{part}_s": 0.01 for phase in ("prefill", "decode") for part in parts}
    return row(system, **times, prefill_search_wait_s=searching_s, decode_search_wait_s=searching_s / 2)


def test_the_wait_of_synchronous_finemoe_bounds_the_cost_of_searches() -> None:
    table = Figure17().table(None, runs_of(split(SYSTEMS[0], 0), split(WAITING, 0.03)))  # type: ignore[arg-type]
    shares = table.groupby(["system", "phase"])["share"].sum()
    assert shares.tolist() == pytest.approx([1] * len(shares))
    assert most_other(table, "ms")["value"].tolist() == pytest.approx([30])
    assert most_other(table, "share")["value"].tolist() == pytest.approx([0.3])


def test_keys_of_claims_are_unique_and_name_their_figure() -> None:
    figures = (Figure1b(), Figure10(), Figure12(), Figure13(), Figure17())
    claims = [(claim, figure) for figure in figures for claim in figure.claims()]
    assert len({claim.key for claim, _ in claims}) == len(claims)
    assert all(claim.figure == figure.key and claim.key.startswith(f"{figure.key}-") for claim, figure in claims)


def test_a_bar_that_would_flatten_the_others_is_cut_and_labelled_with_its_value() -> None:
    rows = [row(system, footing=footing) for footing in ("even", "released") for system in SYSTEMS]
    rows[-1]["tpot_s_mean"] = 7.0
    drawn = Figure10().draw(lineup_table(runs_of(*rows)))
    _, tpot, rates = drawn.axes
    assert [text.get_text() for text in tpot.texts] == ["1000, 7000"]
    assert tpot.get_ylim()[1] == pytest.approx(1.6 * 500)
    assert rates.get_ylim()[1] == 105


def test_lines_and_breakdowns_are_drawn_with_a_name_for_each_system_and_part() -> None:
    sizes = {6.0: scaled(1), 96.0: scaled(0.01)}
    lines = Figure12().draw(lineup_table(over_sizes(sizes)))
    assert len(lines.legends[0].get_texts()) == len(SYSTEMS)
    assert len(Figure1b().draw(trade_off(sizes)).legends[0].get_texts()) == len(SYSTEMS) + 1
    runs = runs_of(*(split(system, 0.01) for system in (*SYSTEMS, WAITING)))
    parts = Figure17().draw(Figure17().table(None, runs))  # type: ignore[arg-type]
    assert [text.get_text() for text in parts.legends[0].get_texts()][-1] == "for searches"
