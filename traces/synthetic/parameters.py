"""Parameters of a synthetic trace: the statistics to reach, and all other choices of the user."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from common.errors import FieldError
from policies.types import ModelShape
from traces.synthetic.trajectory_search import DISTANCE

PerLayer = tuple[float, ...]
PHRASE = 8  # tokens that always follow each other


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of a trace, measured or requested, with one number per layer.

    An overlap is the share of a decode iteration's executed experts that another iteration executed too, from K/J (by
    chance) to 1.
    """

    entropy_bits: PerLayer  # of single decode iterations
    overlap: PerLayer  # with the previous decode iteration
    request_overlap: PerLayer  # with a distant iteration of the same request and topic
    cluster_overlap: PerLayer  # with an iteration of another request in the same cluster
    token_overlap: PerLayer  # with an iteration of another request that has the same token
    load_cv: PerLayer  # coefficient of variation of the experts' load: standard deviation / mean

    def mean(self) -> dict[str, float]:
        """Mean over layers of each statistic."""
        return {name: float(np.mean(values)) for name, values in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Everything that a synthetic trace is generated from, except the lengths of its requests.

    Requests are dealt to the clusters in turn, so that all clusters get the same number.
    """

    shape: ModelShape
    statistics: Statistics
    clusters: int
    topic_change: float = 0.0  # probability per decode iteration that the topic moves to another cluster
    drift: float = 0.0  # popularity and clusters of the last request correlate by 1 − drift with the first one's
    token_similarity: float = 0.6  # mean cosine of the embeddings of two different tokens of a cluster
    trajectory_recall: float | None = None  # of the nearest expert map, `trajectory_search.py`; None: no target
    lookahead: dict[int, float] = field(default_factory=dict)  # distance -> share of executed experts in its top K
    gate_complete: bool = True  # False: gates, and so their entropy, cover only the executed experts
    prefill: bool = True
    embedding: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        shape, chance = self.shape, self.shape.top_k / self.shape.experts
        known = shape.experts if self.gate_complete else shape.top_k
        ranges = {
            "entropy_bits": (0.0, float(np.log2(known))),
            "load_cv": (0.0, float(np.sqrt(1 / chance - 1))),
            "overlap": (0.0, 1.0),  # successive iterations may overlap less than by chance
        }
        for name, values in asdict(self.statistics).items():
            if len(values) != shape.layers:
                _refuse(name, values, f"must be one number, or one for each of the {shape.layers} layers")
            low, high = ranges.get(name, (chance, 1.0))
            for value in values:
                _within(name, value, low, high)
        for name in ("topic_change", "drift", "token_similarity"):
            _within(name, getattr(self, name), 0.0, 1.0)
        most = shape.vocab // PHRASE
        if not 1 <= self.clusters <= most:
            _refuse(
                "clusters", self.clusters, f"must be from 1 to {most} (each needs {PHRASE} of {shape.vocab} tokens)"
            )
        if self.topic_change and self.clusters == 1:
            _refuse("topic_change", self.topic_change, "must be 0 with a single cluster")
        if self.trajectory_recall is not None:
            _within("trajectory_recall", self.trajectory_recall, 0.0, 1.0)
            if shape.layers <= DISTANCE:
                raise FieldError(
                    "trajectory_recall", f"needs more than {DISTANCE} layers, but there are {shape.layers}"
                )
        for recall in self.lookahead.values():
            _within("lookahead_recall", recall, chance, 1.0)

    def described(self) -> dict[str, Any]:
        """Entries for `meta.generation` that are not elsewhere in the trace; one number if all layers are equal."""
        described = asdict(self) | {"lookahead": {str(at): recall for at, recall in self.lookahead.items()}}
        per_layer = {name: [round(one, 4) for one in values] for name, values in described.pop("statistics").items()}
        short = {name: values[0] if len(set(values)) == 1 else values for name, values in per_layer.items()}
        elsewhere = ("shape", "seed", "gate_complete", "prefill", "embedding")
        return short | {name: value for name, value in described.items() if name not in elsewhere}


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low - 1e-9 <= value <= high + 1e-9:
        _refuse(name, f"{value:g}", f"must be from {low:.4g} to {high:.4g}")


def _refuse(name: str, value: object, what: str) -> None:
    """Raise `FieldError` under the name of the setting, which has no unit."""
    raise FieldError(name.removesuffix("_bits"), f"{what}, not {value}")
