"""Figure 14b: hit rate by eviction rule."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from typing_extensions import override

from sim.paper.case import Case
from sim.paper.claims.claim import Claim
from sim.paper.figures.ablation import Variant, ablation_cases, ablation_table, draw_hit_rates, rising_variants
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.study import Study
from sim.system_colours import colour_of

_FINEMOE = "finemoe,prefetch_distance={best_distance}"

LRU = Variant(name="LRU", text=f"{_FINEMOE}+lru", colour=colour_of("lru"))
LFU = Variant(name="LFU", text=f"{_FINEMOE}+lfu", colour=colour_of("lfu"))
OWN = Variant(name="FineMoE", text=_FINEMOE, colour=colour_of("finemoe"))
EVICTORS = (LRU, LFU, OWN)


class Figure14b(PaperFigure):
    """Hit rates of FineMoE with other eviction rules."""

    key = "14b"
    title = "Hit rate by eviction rule"
    settings = (
        "All prefetch like FineMoE, at the paper's best distance of the model; cache 12 GB (not stated in the paper). "
        "With every rule, a prefetch never evicts an expert that is planned for a nearer layer."
    )

    @override
    def cases(self, study: Study) -> Sequence[Case]:
        return [case for trace in study.traces for case in ablation_cases(study, trace, EVICTORS)]

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """Hit rates by evictor."""
        return ablation_table(runs)

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        return draw_hit_rates(table, EVICTORS)

    @override
    def claims(self) -> Sequence[Claim]:
        return [
            Claim(
                key="14b-lru-lfu",
                figure="14b",
                says="LRU hits less often than LFU",
                rule="order",
                ours=lambda tables: rising_variants(tables["14b"], LRU.name, LFU.name),
            ),
            Claim(
                key="14b-lfu-finemoe",
                figure="14b",
                says="LFU hits less often than FineMoE's own rule",
                rule="order",
                ours=lambda tables: rising_variants(tables["14b"], LFU.name, OWN.name),
            ),
        ]
