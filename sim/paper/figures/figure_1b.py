"""Figure 1b: latency against memory, from the runs of figure 12 and from runs with every expert on the GPUs."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from typing_extensions import override

from common.figures import figure, legend_above, panels
from sim.paper.case import Case
from sim.paper.claims.claim import SAME_ORDER, Claim
from sim.paper.claims.claim_values import SUBJECT
from sim.paper.figures.figure_12 import FAST_ON_QWEN, cases_over_sizes
from sim.paper.figures.footing_bars import PALE
from sim.paper.figures.lineup import by_system, explained, lineup, lineup_table, main_forms
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.footings import EVEN, RELEASED
from sim.paper.paper_systems import DEEPSPEED, NO_OFFLOAD, SYSTEMS
from sim.paper.study import CACHE_GB, TESTBED, Study

SHOWN = (*SYSTEMS, NO_OFFLOAD)
RUN, AT_TARGET = "run", "at target"
SLOWER = 2  # memory is read where TPOT is this many times no-offload's


class Figure1b(PaperFigure):
    """The trade-off of latency and memory."""

    key = "1b"
    title = "Latency against memory"
    settings = (
        "Figure 12's runs; pale: as released. The paper does not say at which latency it reads memory. Here (diamonds) "
        f"it is read where a system's line reaches {SLOWER:g} times no-offload's TPOT (dotted)."
    )

    @override
    def cases(self, study: Study) -> Sequence[Case]:
        resident = lineup(study, study.of_first_prompts(), [NO_OFFLOAD], cache_gb=CACHE_GB, machine=TESTBED)
        return cases_over_sizes(study) + resident

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """A row per run, and per system and footing a row `at target` with the memory needed for the target TPOT.

        `memory_gb` is the limit of the cache, at most the size of all experts. It is NaN if no run reaches the target.
        """
        rows = main_forms(lineup_table(runs))
        groups = rows.groupby(["model", "prompts", "footing"], sort=False)
        return pd.concat([_with_targets(group) for _, group in groups], ignore_index=True)

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        """A panel per model with a line per system, solid on the even footing and pale on the released one."""
        models = list(table["model"].unique())
        drawn = figure(7, 2.9)
        row = panels(drawn, 1, len(models))[0]
        for panel, model in zip(row, models, strict=True):
            _draw(panel, table[table["model"] == model])
            panel.set_title(model, fontsize=9)
            panel.set_xlabel("memory for experts [GB]", fontsize=8)
        row[0].set_ylabel("TPOT [ms]", fontsize=8)
        legend_above(drawn, *row[0].get_legend_handles_labels(), columns=4)
        return drawn

    @override
    def claims(self) -> Sequence[Claim]:
        return [
            Claim(
                key="1b-no-offload-corner",
                figure="1b",
                says="No-offload is the fast, large corner: no system with a smaller cache is as fast, and none needs "
                "more memory",
                rule="order",
                ours=lambda tables: fast_and_large(tables["1b"]),
            ),
            Claim(
                key="1b-deepspeed-corner",
                figure="1b",
                says="DeepSpeed is the slow, small corner: with the smallest cache it is the slowest of all",
                rule="order",
                ours=lambda tables: slow_and_small(tables["1b"]),
            ),
            Claim(
                key="1b-finemoe-origin",
                figure="1b",
                says=f"FineMoE is nearest the origin (here: of the five it needs the least memory for {SLOWER:g} times "
                "no-offload's TPOT)",
                rule="order",
                ours=lambda tables: least_memory(tables["1b"]),
                reasons={SAME_ORDER: FAST_ON_QWEN},
            ),
        ]


def _with_targets(rows: pd.DataFrame) -> pd.DataFrame:
    """The runs of one trace and footing as points, plus each system's memory at the target."""
    resident = rows[rows["system"] == NO_OFFLOAD.name]
    all_gb = float(resident["experts_gb"].iloc[0])
    memory_gb = rows["cache_gb"].clip(upper=all_gb).where(rows["system"] != NO_OFFLOAD.name, all_gb)
    columns = ["model", "prompts", "footing", "machine", "system", "form"]
    points = rows[[*columns, "status", "reason"]].assign(point=RUN, memory_gb=memory_gb, tpot_ms=rows["tpot_ms"])
    target_ms = SLOWER * float(resident["tpot_ms"].iloc[0])
    reached = points.drop_duplicates("system").assign(point=AT_TARGET, tpot_ms=target_ms)
    reached["memory_gb"] = [_memory_gb(points[points["system"] == system], target_ms) for system in reached["system"]]
    return pd.concat([points, reached])


def _memory_gb(points: pd.DataFrame, target_ms: float) -> float:
    """The least memory at which a system's line in the picture reaches the target TPOT; NaN if it never does.

    Between two runs, memory is interpolated linearly and TPOT logarithmically.
    """
    points = points.dropna(subset=["tpot_ms"]).sort_values("memory_gb")
    memory, times = points["memory_gb"].to_numpy(), points["tpot_ms"].to_numpy()
    enough = np.flatnonzero(times <= target_ms)
    if not len(enough):
        return math.nan
    place = int(enough[0])
    before = max(place - 1, 0)
    return float(np.interp(-math.log(target_ms), -np.log(times[[before, place]]), memory[[before, place]]))


def fast_and_large(table: pd.DataFrame) -> pd.DataFrame:
    """1 if no-offload has the lowest TPOT and the most memory."""

    def corner(rows: pd.DataFrame) -> tuple[float, str]:
        runs = rows[rows["point"] == RUN]
        is_resident = runs["system"] == NO_OFFLOAD.name
        others, resident = runs[~is_resident], runs[is_resident].iloc[0]
        if runs["tpot_ms"].isna().any():
            return math.nan, ""
        smaller = others[others["memory_gb"] < resident["memory_gb"]]
        holds = resident["tpot_ms"] < smaller["tpot_ms"].min() and resident["memory_gb"] >= others["memory_gb"].max()
        return float(holds), f"{resident['tpot_ms']:.1f} ms with {resident['memory_gb']:.0f} GB"

    return explained(table, corner)


def slow_and_small(table: pd.DataFrame) -> pd.DataFrame:
    """1 if DeepSpeed is the slowest with the smallest cache."""

    def corner(rows: pd.DataFrame) -> tuple[float, str]:
        runs = rows[rows["point"] == RUN]
        times = runs[runs["memory_gb"] == runs["memory_gb"].min()].set_index("system")["tpot_ms"]
        if times.isna().any() or DEEPSPEED.name not in times:
            return math.nan, ""
        return float(times.idxmax() == DEEPSPEED.name), f"slowest: {times.idxmax()}, {times.max():.0f} ms"

    return explained(table, corner)


def least_memory(table: pd.DataFrame) -> pd.DataFrame:
    """1 if FineMoE needs the least memory for the target; the detail lists all systems.

    NaN if another system needs as little, because both reach the target with the smallest cache.
    """

    def least(rows: pd.DataFrame) -> tuple[float, str]:
        reached = rows[rows["point"] == AT_TARGET]
        needed = by_system(reached, "memory_gb", [system.name for system in SYSTEMS])
        detail = ", ".join(f"{system} {gb:.1f} GB" for system, gb in needed.sort_values().items())
        others = needed.drop(SUBJECT).min()
        if needed.isna().any() or needed[SUBJECT] == others:
            return math.nan, detail
        return float(needed[SUBJECT] < others), detail

    return explained(table, least)


def _draw(panel: Any, table: pd.DataFrame) -> None:
    for system in reversed(SHOWN):
        for footing, shade in ((RELEASED, {"alpha": PALE}), (EVEN, {"label": system.title})):
            rows = table[(table["system"] == system.name) & (table["footing"] == footing.name)].sort_values("memory_gb")
            runs, target = rows[rows["point"] == RUN], rows[rows["point"] == AT_TARGET]
            style: dict[str, Any] = {"color": system.colour, "linewidth": 1.1, "marker": "o", "markersize": 2}
            if system == NO_OFFLOAD:
                style |= {"marker": "*", "markersize": 7, "linestyle": "none"}
            if system.name == SUBJECT:
                style |= {"linewidth": 2, "markersize": 2.5}
            panel.plot(runs["memory_gb"], runs["tpot_ms"], **style, **shade)
            if footing == EVEN and system != NO_OFFLOAD:
                look = {"marker": "D", "markersize": 4, "linestyle": "none", "markerfacecolor": "white"}
                panel.plot(target["memory_gb"], target["tpot_ms"], color=system.colour, zorder=3, **look)
    target_ms = table[(table["point"] == AT_TARGET) & (table["footing"] == EVEN.name)]["tpot_ms"]
    for height in target_ms.unique():
        panel.axhline(height, color="black", linestyle=":", linewidth=0.8, zorder=0)
    panel.set_xlim(left=0)
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.3, linewidth=0.5)
