"""Table 1: the models of the evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from typing_extensions import override

from common.figures import figure
from policies.types import ModelShape
from sim.hardware.memory import dense_weights
from sim.paper.claims.claim import BOTH, Claim, Tables
from sim.paper.claims.claim_values import COLUMNS
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.study import Study
from sim.paper.study_traces import MODELS
from traces.published_models import published

PAPER, CONFIGURATION, TRACE = "paper", "published configuration", "trace"
"""The source of a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """A model as in the paper's table; parameters in billions, experts per layer."""

    active_parameters_b: float
    total_parameters_b: float
    active_experts: int
    experts: int
    layers: int


PAPERS: Mapping[str, ModelRow] = {
    "Mixtral": ModelRow(active_parameters_b=12.9, total_parameters_b=46.7, active_experts=2, experts=8, layers=32),
    "Qwen": ModelRow(active_parameters_b=2.7, total_parameters_b=14.3, active_experts=4, experts=60, layers=24),
    "Phi": ModelRow(active_parameters_b=6.6, total_parameters_b=42, active_experts=2, experts=16, layers=32),
}
_NUMBERS = ("active_parameters_b", "total_parameters_b", "active_experts", "experts", "layers")
_GIVEN = "the published configuration states it, and routing of the model has its shape"
_HEADS = ("model", "from", "parameters\nactive / total [1e9]", "experts of a layer\nactive / total", "MoE\nlayers")


class Table1(PaperFigure):
    """Parameters counted from the published configurations, and experts and layers also from the routing."""

    key = "table-1"
    title = "The models: parameters, experts, MoE layers"
    settings = (
        "Counted: attention, routers, routed and shared experts, embedding and output matrices; not norms and biases "
        "(below 0.1 %). The numbers of experts exclude shared ones. Traces have no parameters of their own here."
    )

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """For each of the paper's models a row for the paper and one for the configuration, then a row per trace."""
        rows = [
            {"model": model, "prompts": "", "source": source, **numbers}
            for sizes, (model, _) in MODELS.items()
            for source, numbers in {PAPER: _of_paper(model), CONFIGURATION: _of_shape(published(sizes))}.items()
        ]
        for trace in study.traces:
            counted = {**_of_shape(study.opened(trace).shape), "active_parameters_b": None, "total_parameters_b": None}
            rows.append({"model": trace.model, "prompts": trace.prompts, "source": TRACE, **counted})
        return pd.DataFrame(rows).astype(dict.fromkeys(_NUMBERS[:2], float))

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        cells = [_cells(row) for row in table.sort_values("model", kind="stable", key=_places).to_dict("records")]
        drawn = figure(7, 0.55 + 0.2 * len(cells))
        panel = drawn.subplots()
        panel.axis("off")
        shown = panel.table(cells, colLabels=_HEADS, loc="center", cellLoc="center", edges="horizontal")
        shown.auto_set_font_size(False)
        shown.set_fontsize(8)
        shown.auto_set_column_width(range(len(_HEADS)))
        for (row, _), cell in shown.get_celld().items():
            cell.set_linewidth(0.4)
            cell.set_height((2.2 if row == 0 else 1.1) / (len(cells) * 1.1 + 2.2))
        return drawn

    @override
    def claims(self) -> Sequence[Claim]:
        return [claim for model, row in PAPERS.items() for claim in _claims(model, row)]


def _claims(model: str, row: ModelRow) -> Sequence[Claim]:
    name = model.lower()
    return [
        _parameters(model, "active", row.active_parameters_b),
        _parameters(model, "total", row.total_parameters_b),
        Claim(
            key=f"table-1-experts-{name}",
            figure="table-1",
            says=f"A layer of {model} has {row.experts} experts, {row.active_experts} of them active",
            rule="order",
            ours=lambda tables: _equal_experts(tables, model, row),
            given=_GIVEN,
        ),
        Claim(
            key=f"table-1-layers-{name}",
            figure="table-1",
            says=f"{model} has {row.layers} MoE layers",
            rule="number",
            paper=row.layers,
            unit="layers",
            ours=lambda tables: _values(tables, model, "layers", 1),
            given=_GIVEN,
        ),
    ]


def _parameters(model: str, which: str, billions: float) -> Claim:
    return Claim(
        key=f"table-1-{which}-parameters-{model.lower()}",
        figure="table-1",
        says=f"{model} has {billions:g} B {which} parameters",
        rule="number",
        paper=billions * 1e9,
        unit="parameters",
        ours=lambda tables: _values(tables, model, f"{which}_parameters_b", 1e9),
        given="counted from the published configuration, which is also the paper's",
    )


def parameters_of(model: ModelShape) -> tuple[int, int]:
    """Active and total parameters."""
    dense = model.layers * dense_weights(model) + 2 * model.hidden * model.vocab
    expert = 3 * model.hidden * model.expert_ffn
    return dense + model.layers * model.top_k * expert, dense + model.total_experts * expert


def _of_paper(model: str) -> dict[str, float]:
    return {name: getattr(PAPERS[model], name) for name in _NUMBERS}


def _of_shape(shape: ModelShape) -> dict[str, float]:
    active, total = parameters_of(shape)
    return dict(zip(_NUMBERS, (active / 1e9, total / 1e9, shape.top_k, shape.experts, shape.layers), strict=True))


def _of_model(tables: Tables, model: str) -> pd.DataFrame:
    """Our rows of a model: its configuration and its traces."""
    table = tables["table-1"]
    return table[(table["model"] == model) & (table["source"] != PAPER)]


def _values(tables: Tables, model: str, column: str, scale: float) -> pd.DataFrame:
    rows = _of_model(tables, model).dropna(subset=column)
    return pd.DataFrame(
        [(BOTH, _title(row), row[column] * scale, "") for row in rows.to_dict("records")], columns=COLUMNS
    )


def _equal_experts(tables: Tables, model: str, paper: ModelRow) -> pd.DataFrame:
    rows = [
        (BOTH, _title(row), float((row["active_experts"], row["experts"]) == (paper.active_experts, paper.experts)), "")
        for row in _of_model(tables, model).to_dict("records")
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _title(row: Mapping[Any, Any]) -> str:
    """The title of a trace, or the model of a configuration."""
    return f"{row['model']}, {row['prompts']}" if row["prompts"] else row["model"]


def _cells(row: Mapping[Any, Any]) -> list[str]:
    active, total = row["active_parameters_b"], row["total_parameters_b"]
    source = row["source"] if row["source"] != TRACE else f"trace, {row['prompts']}"
    digits = "g" if row["source"] == PAPER else ".1f"
    parameters = f"{active:{digits}} / {total:{digits}}" if active == active else "–"
    return [row["model"], source, parameters, f"{row['active_experts']} / {row['experts']}", str(row["layers"])]


def _places(models: "pd.Series[str]") -> "pd.Series[int]":
    """The order of first appearance."""
    order = {model: place for place, model in enumerate(dict.fromkeys(models))}
    return models.map(order)
