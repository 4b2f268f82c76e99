"""What a synthetic trace is drawn from: statistics that are asked for, and everything else that the user decides."""

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
    """What is measured of a trace, a number per layer each; what a synthetic one is asked for.

    Overlaps are shares of the executed experts of a decode iteration that another one executed too, from K/J, by
    chance, to 1.
    """

    entropy_bits: PerLayer  # of single decode iterations: sharpness
    overlap: PerLayer  # with the decode iteration before
    request_overlap: PerLayer  # with one of the same request and topic, far away
    cluster_overlap: PerLayer  # with one of another request of the same cluster
    token_overlap: PerLayer  # with one of another request that has the same token
    load_cv: PerLayer  # coefficient of variation of the experts' load: standard deviation over mean

    def mean(self) -> dict[str, float]:
        """Of each of them the mean over layers."""
        return {name: float(np.mean(values)) for name, values in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Everything that a synthetic trace is drawn from, but the lengths of its requests.

    Requests are dealt to the clusters like cards, so that none has more by luck.
    """

    shape: ModelShape
    statistics: Statistics
    clusters: int
    topic_change: float = 0.0  # probability per decode iteration that the topic moves to another cluster
    drift: float = 0.0  # popularity and clusters of the last request correlate by 1 − drift with the first one's
    token_similarity: float = 0.6  # mean cosine of the embeddings of two different tokens of a cluster
    trajectory_recall: float | None = None  # of the nearest expert map, `trajectory_search.py`; None: whatever it is
    lookahead: dict[int, float] = field(default_factory=dict)  # distance -> share of executed experts in its top K
    gate_complete: bool = True  # False: gates are known at the executed experts only, and so is their entropy
    prefill: bool = True
    embedding: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        shape, chance = self.shape, self.shape.top_k / self.shape.experts
        known = shape.experts if self.gate_complete else shape.top_k
        ranges = {
            "entropy_bits": (0.0, float(np.log2(known))),
            "load_cv": (0.0, float(np.sqrt(1 / chance - 1))),
            "overlap": (0.0, 1.0),  # neighbours may avoid each other
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
            _refuse("clusters", self.clusters, f"must be from 1 to {most}, {PHRASE} of {shape.vocab} tokens for each")
        if self.topic_change and self.clusters == 1:
            _refuse("topic_change", self.topic_change, "there is only one cluster")
        if self.trajectory_recall is not None:
            _within("trajectory_recall", self.trajectory_recall, 0.0, 1.0)
            if shape.layers <= DISTANCE:
                _refuse("trajectory_recall", self.trajectory_recall, f"needs more than {DISTANCE} layers")
        for recall in self.lookahead.values():
            _within("lookahead_recall", recall, chance, 1.0)

    def told(self) -> dict[str, Any]:
        """What `meta.generation` says: all that a trace does not note elsewhere; one number where all layers agree."""
        described = asdict(self) | {"lookahead": {str(at): recall for at, recall in self.lookahead.items()}}
        per_layer = {name: [round(one, 4) for one in values] for name, values in described.pop("statistics").items()}
        short = {name: values[0] if len(set(values)) == 1 else values for name, values in per_layer.items()}
        elsewhere = ("shape", "seed", "gate_complete", "prefill", "embedding")
        return short | {name: value for name, value in described.items() if name not in elsewhere}


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low - 1e-9 <= value <= high + 1e-9:
        _refuse(name, f"{value:g}", f"must be from {low:.4g} to {high:.4g}")


def _refuse(name: str, value: object, what: str) -> None:
    """Under the name that the setting has; only statistics have their unit in the name."""
    raise FieldError(name.removesuffix("_bits"), f"{what}, value {value}")
