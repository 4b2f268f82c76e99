"""What figures 14a and 14b share: runs, table and picture of FineMoE with one part replaced."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from common.figures import WHITE, figure, mixed, panels
from common.tables import percent
from sim.paper.case import Case
from sim.paper.claims.claim_values import rising
from sim.paper.figures.footing_bars import draw_footing_bars, footing_legend, mark_other_forms
from sim.paper.figures.run_columns import counted_hit_rates, labelled, summary_column, times_ms
from sim.paper.footings import FOOTINGS
from sim.paper.study import Study
from sim.paper.study_traces import PaperTrace

LABELS = ["model", "prompts", "footing", "cache_gb", "variant", "form"]
SHARES = ["hit_rate", "late_rate", "miss_rate", "hit_rate_prefill", "hit_rate_decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """FineMoE with another tracker or evictor."""

    name: str
    """The name in the paper's legend."""
    text: str
    """The policy, containing `{best_distance}`."""
    colour: str
    form: str = ""
    """Set for a form that is shown beside the main variant of the same name."""

    def policy(self, trace: PaperTrace) -> str:
        """The text of the policy for a model."""
        return self.text.format(best_distance=trace.best_distance)


def ablation_cases(study: Study, trace: PaperTrace, variants: Sequence[Variant]) -> list[Case]:
    """A run per footing and variant."""
    return [
        study.case(
            trace,
            variant.policy(trace),
            footing=footing,
            variant=variant.name,
            form=variant.form,
        )
        for footing in FOOTINGS
        for variant in variants
    ]


def ablation_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Hit rates, times in ms and the number of prefetched copies of each run.

    `counted_hit_rate` is the hit rate as the footing counts it.
    """
    table = labelled(runs, LABELS)
    table["counted_hit_rate"] = counted_hit_rates(runs)
    for share in SHARES:
        table[share] = summary_column(runs, share)
    table["prefetched_copies"] = summary_column(runs, "prefetched_copies")
    table[["ttft_ms", "tpot_ms"]] = times_ms(runs)
    return table


def draw_hit_rates(table: pd.DataFrame, variants: Sequence[Variant]) -> Any:
    """A panel per model with a group of bars per set of prompts; a black line is another form, on even footing."""
    from matplotlib.lines import Line2D

    models = list(dict.fromkeys(table["model"]))
    colours = {variant.name: variant.colour for variant in variants}
    drawn = figure(7, 2.8)
    for panel, model in zip(panels(drawn, 1, len(models), sharey=True)[0], models, strict=True):
        rows = table[table["model"] == model]
        rows = rows.assign(shown=rows["counted_hit_rate"] * 100)
        main = rows[rows["form"] == ""]
        draw_footing_bars(panel, main, "shown", groups="prompts", bars="variant", colours=colours)
        panel.set_title(model, fontsize=9)
        panel.set_ylim(0, 105)
        names, others = list(dict.fromkeys(main["prompts"])), rows[rows["form"] != ""]
        mark_other_forms(panel, others, "shown", groups="prompts", bars="variant", names=names, colours=colours)
    drawn.axes[0].set_ylabel("hit rate [%]", fontsize=8)
    forms = {f"{name}, {form}" for name, form in zip(table["variant"], table["form"], strict=True) if form}
    others = [Line2D([], [], color="black", linewidth=1, label=wording) for wording in sorted(forms)]
    footing_legend(drawn, colours, *others, columns=4)
    return drawn


def lighter(colour: str, share: float) -> str:
    """A colour `#rrggbb` mixed with this share of white."""
    return mixed(colour, WHITE, share)


def rising_variants(table: pd.DataFrame, *names: str) -> pd.DataFrame:
    """1 if the footing's hit rate rises strictly over the variants in the order of `names`; the detail lists the rates.

    NaN if a run is missing. Equal rates do not rise.
    """
    main = table[table["form"] == ""]
    return rising(main, "counted_hit_rate", names, by="variant", detail=_rates)


def _rates(values: "pd.Series[float]") -> str:
    return ", ".join(f"{name} {percent(value, 2, signed=False)}" for name, value in values.items())
