"""Figure 14a: hit rate by expert tracker."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from typing_extensions import override

from sim.paper.case import Case
from sim.paper.claims.claim import NOT_REPRODUCED, SAME_ORDER, Claim
from sim.paper.figures.ablation import Variant, ablation_cases, ablation_table, draw_hit_rates, lighter, rising_variants
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.footings import EVEN
from sim.paper.study import Study
from sim.paper.study_traces import PaperTrace
from sim.system_colours import colour_of

_D = "prefetch_distance={best_distance}"
_FINEMOE = colour_of("finemoe")

HIT_COUNT = Variant(name="Hit count", text=f"hit-count,{_D}", colour=colour_of("moe-infinity"))
SPECULATE = Variant(name="Speculate", text=f"speculate,lookahead=false,{_D}", colour=colour_of("promoe"))
LOOKAHEAD = Variant(name="Speculate", form="lookahead", text=f"speculate,{_D}", colour=SPECULATE.colour)
MAP_T = Variant(name="Map (T)", text=f"map-t,{_D}", colour=lighter(_FINEMOE, 0.6))
MAP_TS = Variant(name="Map (T+S)", text=f"map-ts,{_D}", colour=lighter(_FINEMOE, 0.3))
MAP_TS_DELTA = Variant(name="Map (T+S+δ)", text=f"finemoe,{_D}", colour=_FINEMOE)
TRACKERS = (HIT_COUNT, SPECULATE, MAP_T, MAP_TS, MAP_TS_DELTA)


LATE_COPIES = (
    "figure_14a.csv: semantic search adds copies for the first layers, and many are still in flight when the router of "
    "the layer decides. So late_rate rises in every trace, while hit_rate_prefill falls in most. Where late experts "
    "count as hits (as released), the order holds more often"
)
DELTA_ADDS_LITTLE = (
    "figure_14a.csv, prefetched_copies: δ adds few copies, and almost none on Mixtral. It adds an expert only if 1 − "
    "score exceeds the sum of the K largest probabilities, which is at least K/J: 0.25, 0.07 and 0.13 for Mixtral, "
    "Qwen and Phi. Figure 16a shows the scores"
)


class Figure14a(PaperFigure):
    """Hit rates of FineMoE when other trackers decide what to prefetch."""

    key = "14a"
    title = "Hit rate by expert tracker"
    settings = (
        "All use FineMoE's evictor and the paper's best distance of the model, and wait for no prefetch; cache 12 GB "
        "(not stated in the paper). Speculate is a map learned from the history; the black line applies the later "
        "router to the earlier layer's input, where the trace has recorded that for this distance."
    )

    @override
    def cases(self, study: Study) -> Sequence[Case]:
        return [case for trace in study.traces for case in ablation_cases(study, trace, _trackers(study, trace))]

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """Hit rates by tracker."""
        return ablation_table(runs)

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        return draw_hit_rates(table, TRACKERS)

    @override
    def claims(self) -> Sequence[Claim]:
        return [
            Claim(
                key="14a-hit-count",
                figure="14a",
                says="Hit count hits less often than speculation, and less often than trajectories: "
                "Hit count < Speculate and Hit count < Map (T)",
                rule="order",
                ours=lambda tables: below_both(tables["14a"]),
            ),
            Claim(
                key="14a-map-ts",
                figure="14a",
                says="Semantic search adds hits: Map (T) < Map (T+S)",
                rule="order",
                ours=lambda tables: rising_variants(tables["14a"], MAP_T.name, MAP_TS.name),
                reasons={(EVEN.name, SAME_ORDER): LATE_COPIES},
            ),
            Claim(
                key="14a-map-ts-delta",
                figure="14a",
                says="The threshold δ adds hits: Map (T+S) < Map (T+S+δ)",
                rule="order",
                ours=lambda tables: rising_variants(tables["14a"], MAP_TS.name, MAP_TS_DELTA.name),
                reasons={NOT_REPRODUCED: DELTA_ADDS_LITTLE, SAME_ORDER: DELTA_ADDS_LITTLE},
            ),
        ]


def below_both(table: pd.DataFrame) -> pd.DataFrame:
    """1 if hit count is below speculation and below trajectories; the detail lists the rates."""
    first = rising_variants(table, HIT_COUNT.name, SPECULATE.name)
    second = rising_variants(table, HIT_COUNT.name, MAP_T.name)
    # A product is NaN if one of them is.
    return first.assign(value=first["value"] * second["value"], detail=first["detail"] + " and " + second["detail"])


def _trackers(study: Study, trace: PaperTrace) -> Sequence[Variant]:
    recorded = study.opened(trace).meta.lookahead
    return (*TRACKERS, LOOKAHEAD) if trace.best_distance in recorded and not study.tier.thin else TRACKERS
