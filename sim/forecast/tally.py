"""Planned versus executed experts: counts, and the measures derived from them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from policies.types import ModelShape, Prefetch
from sim.engine.batching import Step

COUNTS = ("events", "planned_events", "executed", "planned", "hits", "ranked_hits", "lead_sum")


class Tally:
    """Counts for each layer, separately for decode steps and prefills."""

    def __init__(self, model: ModelShape) -> None:
        self._model = model
        self._counts = np.zeros((2, model.layers, len(COUNTS)), np.int64)
        self._tokens = [0, 0]

    def add(self, step: Step, predicted: Sequence[tuple[Prefetch, int] | None]) -> None:
        """Compare an iteration with each layer's plan, given with its lead."""
        model = self._model
        planned = np.zeros((model.layers, model.experts), bool)
        rank = np.full((model.layers, model.experts), -1.0)  # below 0: not ranked
        leads = np.zeros(model.layers, np.int64)
        for layer, forecast in enumerate(predicted):
            if forecast is not None:
                plan, leads[layer] = forecast
                planned[layer, plan.experts] = True
                if plan.belief is None:
                    rank[layer, plan.experts] = plan.weights
                else:
                    rank[layer] = plan.belief
        executed = np.zeros_like(planned)
        for layer, experts in enumerate(step.demands):
            executed[layer, experts] = True
        distinct = executed.sum(axis=1)
        order = (-rank).argsort(axis=1, kind="stable")
        first = (np.arange(model.experts) < distinct[:, None]) & (np.take_along_axis(rank, order, axis=1) >= 0)

        prefill = int(step.batch.prefill.any())
        self._tokens[prefill] += len(step.experts)
        counts: dict[str, Any] = {
            "events": 1,
            "planned_events": leads > 0,
            "executed": distinct,
            "planned": planned.sum(axis=1),
            "hits": (planned & executed).sum(axis=1),
            "ranked_hits": (first & np.take_along_axis(executed, order, axis=1)).sum(axis=1),
            "lead_sum": leads,
        }
        for place, name in enumerate(COUNTS):
            self._counts[prefill, :, place] += counts[name]

    def frame(self) -> pd.DataFrame:
        """A row per layer and kind of iteration that occurred."""
        rows: list[dict[str, Any]] = []
        for prefill in (False, True):
            for layer, counts in enumerate(self._counts[int(prefill)].tolist()):
                if counts[0]:
                    named = dict(zip(COUNTS, counts, strict=True))
                    rows.append({"prefill": prefill, "layer": layer, "tokens": self._tokens[int(prefill)], **named})
        return pd.DataFrame(rows, columns=["prefill", "layer", "tokens", *COUNTS])


def summarise_layers(frame: pd.DataFrame) -> pd.DataFrame:
    """Sum the rows of `tidy` over layers: a row per (policy, distance, kind of iteration), in their order.

    Recalls and coverage are over all layers. Those with `_ahead` are over layers d and later at distance d, because
    only these have a layer that far before them.
    """
    keys = ["policy", "distance", "prefill"]
    every = frame.groupby(keys, sort=False)
    ahead = frame[frame["layer"] >= frame["distance"]].groupby(keys, sort=False)[list(COUNTS)].sum()
    summary = rates(every[list(COUNTS)].sum()).join(every[["useful_bytes", "wasted_bytes"]].sum())
    some = rates(ahead)[["recall", "recall_at_k", "coverage"]].add_suffix("_ahead")
    return summary.join(some).join(every["tokens"].first()).reset_index()


def rates(counts: pd.DataFrame) -> pd.DataFrame:
    """The measures of each row of `counts`; missing where the denominator is 0."""

    def share(part: str, whole: str) -> "pd.Series[float]":
        return counts[part] / counts[whole].where(counts[whole] > 0)

    return pd.DataFrame(
        {
            "recall": share("hits", "executed"),
            "precision": share("hits", "planned"),
            "recall_at_k": share("ranked_hits", "executed"),
            "coverage": share("planned_events", "events"),
            "lead_mean": share("lead_sum", "planned_events"),
        }
    )


def moved(counts: pd.DataFrame, model: ModelShape) -> pd.DataFrame:
    """The bytes of the planned experts in each row of `counts`: useful (executed) and wasted ones."""
    size = np.array(model.layer_expert_bytes)[counts["layer"]]
    useful, planned = counts["hits"] * size, counts["planned"] * size
    return pd.DataFrame({"useful_bytes": useful, "wasted_bytes": planned - useful})
