"""Figure 3c: entropy as iterations aggregate."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
from typing_extensions import override

from common.figures import GREY, figure, legend_above, panels, shades
from sim.paper.analyses.routing_entropy import (
    DECODED,
    GATES,
    RANDOM,
    RELEASED,
    running_entropies,
)
from sim.paper.analyses.sampled_prompts import PROMPTS, SEED
from sim.paper.claims.claim import BOTH, NOT_REPRODUCED, Claim, Tables
from sim.paper.claims.claim_values import COLUMNS, each_trace
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.study import Study

PLATEAU = 10  # iterations; the paper says that aggregating more changes little
REACHED = 0.9  # at a plateau, entropy is at least this share of its last value
HIGHEST_FIRST = ("Qwen", "Phi", "Mixtral")
_STYLES = {RELEASED: "-", DECODED: "--", GATES: "-.", RANDOM: ":"}

_TOO_FEW = (
    "Ten tokens execute too few experts: on Qwen and Phi, not even experts drawn uniformly at random, the control in "
    "table 3c, reach that share by then (see the detail)"
)


_MOST_EXPERTS = "the entropy is at most ln J for J experts, and J is 60, 16 and 8 for Qwen, Phi and Mixtral"


class Figure3c(PaperFigure):
    """A line per model and reading."""

    key = "3c"
    title = "Entropy as iterations aggregate"
    settings = (
        f"Up to {PROMPTS} requests per trace; nats; mean over layers and requests. Solid, as in the released code: "
        "executed experts, with each prompt token as an iteration. A control draws every token's experts at random."
    )

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """A row per trace, reading and number of iterations."""
        return study.analysed("running_entropies", running_entropies, {"prompts": PROMPTS, "seed": SEED})

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        """A panel per set of prompts, with a shade per model and a stroke per reading."""
        sets, models = list(table["prompts"].unique()), list(table["model"].unique())
        colours = dict(zip(models, shades(len(models)), strict=True))
        drawn = figure(7, 3.1)
        grid = panels(drawn, 1, len(sets), sharey=True)
        for panel, prompts in zip(grid[0], sets, strict=True):
            some = table[table["prompts"] == prompts]
            for (model, reading), line in some.groupby(["model", "reading"], sort=False):
                width = 1.8 if reading == RELEASED else 0.9
                style = {"color": colours[model], "linestyle": _STYLES[reading], "linewidth": width}
                panel.plot(line["iterations"], line["entropy_nats"], **style)
            panel.axvline(PLATEAU, color=GREY, linewidth=0.6)
            panel.set(title=prompts, ylim=(0, None))
            panel.title.set_fontsize(9)
            panel.set_xlabel("iterations added up", fontsize=8)
            panel.tick_params(labelsize=7)
        grid[0, 0].set_ylabel("mean entropy [nats]", fontsize=8)
        for model, colour in colours.items():
            grid[0, 0].plot([], [], color=colour, linewidth=1.8, label=model)
        for reading, stroke in _STYLES.items():
            grid[0, 0].plot([], [], color=GREY, linestyle=stroke, label=reading)
        legend_above(drawn, *grid[0, 0].get_legend_handles_labels(), columns=3)
        return drawn

    @override
    def claims(self) -> Sequence[Claim]:
        return [
            *(
                Claim(
                    key=key,
                    figure="3c",
                    says=f"After about {PLATEAU} iterations the aggregate's entropy reaches a plateau (here: at least "
                    f"{REACHED * 100:.0f} % of its value after all iterations; {of})",
                    rule="bound",
                    low=REACHED,
                    unit="share",
                    ours=partial(_plateaus, reading=reading),
                    reasons={NOT_REPRODUCED: _TOO_FEW} if reading == RELEASED else {},
                )
                for key, reading, of in (
                    ("3c-entropy-plateau", RELEASED, "executed experts, counted as in the released code"),
                    ("3c-entropy-plateau-gates", GATES, "expert maps, from the first decode step"),
                )
            ),
            Claim(
                key="3c-entropy-models",
                figure="3c",
                says=f"By the entropy of all iterations: {' > '.join(HIGHEST_FIRST)}",
                rule="order",
                ours=lambda tables: _orders(tables["3c"]),
                given=_MOST_EXPERTS,
            ),
        ]


def plateau_share(entropy: "pd.Series[float]") -> float:
    """Entropy after `PLATEAU` iterations as a share of its last value; NaN with fewer than `2 · PLATEAU` iterations.

    `entropy` is that of 1, 2, … iterations.
    """
    values = entropy.to_numpy()
    if len(values) < 2 * PLATEAU:
        return float("nan")
    return float(values[PLATEAU - 1] / values[-1])


def _plateaus(tables: Tables, *, reading: str) -> pd.DataFrame:
    def plateau(rows: pd.DataFrame) -> tuple[float, str]:
        curve = rows.loc[rows["reading"] == reading].set_index("iterations")["entropy_nats"]
        reached = curve.index[curve >= REACHED * curve.iloc[-1]].min()
        random = plateau_share(rows.loc[rows["reading"] == RANDOM, "entropy_nats"])
        detail = f"{REACHED * 100:.0f} % after {reached}; at random {random * 100:.0f} % after {PLATEAU}"
        return plateau_share(curve), "" if math.isnan(random) else detail

    return each_trace(tables["3c"], plateau)


def _orders(table: pd.DataFrame) -> pd.DataFrame:
    """1 if the models' last entropies are in the paper's order, per set of prompts; NaN without all models."""
    rows = []
    for prompts, some in table[table["reading"] == RELEASED].groupby("prompts", sort=False):
        last = some.groupby("model")["entropy_nats"].last().reindex(list(HIGHEST_FIRST))
        detail = ", ".join(f"{model} {last[model]:.2f}" for model in HIGHEST_FIRST) + " nats"
        holds = math.nan if last.isna().any() else float(last.is_monotonic_decreasing)
        rows.append((BOTH, f"all models, {prompts}", holds, detail))
    return pd.DataFrame(rows, columns=COLUMNS)
