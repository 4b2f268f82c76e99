"""Figure 18: memory of the expert-map store over its capacity."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from typing_extensions import override

from common.figures import GREY, figure, panels
from policies.types import ModelShape
from sim.paper.claims.claim import BOTH, NOT_REPRODUCED, Claim, Tables
from sim.paper.claims.claim_values import COLUMNS
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.study import Study
from sim.paper.study_traces import MODELS
from traces.published_models import published

KILO_MAPS = (1, 2, 4, 8, 16, 32)
KILO = 1024  # only 1 K = 1024 maps and 1 MB = 1e6 bytes give 189, 570, 457 and 604 MB
NUMBER_BYTES = 4  # float32, as the store keeps them
CONTENTS: Mapping[str, bool] = {"maps": False, "maps and embeddings": True}
"""By content, whether embeddings are counted."""
LIMIT_MB = 200.0
_CLOSED_FORM = "a product of layers, experts, hidden size and capacity"
_LOOKS = {"Mixtral": ("-", "o"), "Qwen": ("--", "s"), "Phi": (":", "^")}


class Figure18(PaperFigure):
    """Memory of the store in closed form, for the sizes of the published models."""

    key = "18"
    title = "Memory of the expert-map store over 1 K … 32 K maps"
    settings = (
        "Closed form for the published sizes: a map has L·J numbers and an embedding h, all float32; 1 K = 1024 maps, "
        "1 MB = 1e6 bytes. The transposed copy that speeds up our search is not counted. The paper does not say "
        "whether embeddings count."
    )

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """Megabytes by model, what is counted, and capacity."""
        return store_memory()

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        drawn = figure(7, 2.9)
        grid = panels(drawn, 1, len(CONTENTS), sharey=True)[0]
        for panel, content in zip(grid, CONTENTS, strict=True):
            rows = table[table["content"] == content]
            for model, (style, marker) in _LOOKS.items():
                of_model = rows[rows["model"] == model]
                panel.plot(
                    of_model["capacity"] / KILO,
                    of_model["memory_mb"],
                    color="black",
                    linestyle=style,
                    marker=marker,
                    markersize=3.5,
                    linewidth=1.2,
                    label=model,
                )
            panel.axhline(LIMIT_MB, color=GREY, linewidth=0.8)
            panel.text(KILO_MAPS[0], LIMIT_MB * 1.06, "the paper's limit, 200 MB", color=GREY, fontsize=7)
            panel.set(xscale="log", yscale="log")
            panel.set_title(content, fontsize=9)
            panel.set_xlabel("maps in the store [K = 1024]", fontsize=8)
            panel.set_xticks(KILO_MAPS, [str(each) for each in KILO_MAPS])
            panel.set_xticks([], minor=True)
            panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            panel.tick_params(labelsize=7)
            panel.grid(alpha=0.3, linewidth=0.5)
        grid[0].set_ylabel("memory [MB]", fontsize=8)
        grid[1].legend(frameon=False, fontsize=7, loc="lower right")
        return drawn

    @override
    def claims(self) -> Sequence[Claim]:
        with_embeddings = (
            "An embedding has h numbers (Mixtral 4096, Qwen 2048, Phi 4096) and a map L·J (256, 1440, 512). So the "
            "pairs in the paper's store take 570, 457 and 604 MB, and Phi's are the largest (figure 18's table)"
        )
        return [
            Claim(
                key="18-memory",
                figure="18",
                says="32 K maps take less than 200 MB (maps alone)",
                rule="bound",
                high=LIMIT_MB,
                unit="MB",
                ours=lambda tables: at_most_maps(tables, "maps"),
                given=_CLOSED_FORM,
            ),
            Claim(
                key="18-memory-qwen",
                figure="18",
                says="Qwen needs the most memory (maps alone, at 32 K)",
                rule="order",
                ours=qwen_is_largest,
                given=_CLOSED_FORM,
            ),
            Claim(
                key="18-memory-with-embeddings",
                figure="18",
                says="32 K maps take less than 200 MB (with the embedding that the store has for each map)",
                rule="bound",
                high=LIMIT_MB,
                unit="MB",
                ours=lambda tables: at_most_maps(tables, "maps and embeddings"),
                given=_CLOSED_FORM,
                reasons={NOT_REPRODUCED: with_embeddings},
                reasons_are_general=True,
            ),
        ]


def store_bytes(model: ModelShape, capacity: int, *, embeddings: bool) -> int:
    """Bytes of `capacity` maps `[L, J]`, with or without their embeddings `[h]`."""
    numbers = model.total_experts + (model.hidden if embeddings else 0)
    return capacity * numbers * NUMBER_BYTES


def store_memory() -> pd.DataFrame:
    """The table behind the figure."""
    rows = [
        (name, content, kilo * KILO, store_bytes(published(sizes), kilo * KILO, embeddings=embeddings) / 1e6)
        for sizes, (name, _) in MODELS.items()
        for content, embeddings in CONTENTS.items()
        for kilo in KILO_MAPS
    ]
    return pd.DataFrame(rows, columns=["model", "content", "capacity", "memory_mb"])


def at_most_maps(tables: Tables, content: str) -> pd.DataFrame:
    """The memory of each model at the largest capacity."""
    rows = _largest(tables["18"], content)
    return pd.DataFrame({"footing": BOTH, "trace": rows["model"], "value": rows["memory_mb"], "detail": ""})


def qwen_is_largest(tables: Tables) -> pd.DataFrame:
    """1 if Qwen's maps need the most memory; the detail has all models with embeddings."""
    alone, both = (_largest(tables["18"], content).set_index("model")["memory_mb"] for content in CONTENTS)
    sizes = ", ".join(f"{model} {size:.0f} MB" for model, size in both.items())
    holds = float(alone.idxmax() == "Qwen") if len(alone) else math.nan
    return pd.DataFrame([(BOTH, "Qwen", holds, f"with embeddings: {sizes}")], columns=COLUMNS)


def _largest(table: pd.DataFrame, content: str) -> pd.DataFrame:
    largest: pd.DataFrame = table[(table["content"] == content) & (table["capacity"] == table["capacity"].max())]
    return largest
