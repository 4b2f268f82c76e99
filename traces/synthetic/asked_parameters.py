"""Derive parameters from settings, with measured statistics of another trace or defaults for the rest."""

from dataclasses import fields, replace

import numpy as np

from common.errors import FieldError
from policies.types import ModelShape
from traces.format.reader import Trace
from traces.synthetic.coefficients import Calibration
from traces.synthetic.drawn_trace import Lengths
from traces.synthetic.measured_statistics import Measured
from traces.synthetic.parameters import Parameters, PerLayer, Statistics
from traces.synthetic.synthetic_settings import LengthSettings, StatisticsSettings
from traces.workloads.arrivals import sample
from traces.workloads.workload_files import read_workload

_REACHED = 0.02  # tolerance for a requested statistic; for entropy relative to its maximum
_USUAL_OVERLAPS = {
    "overlap": 0.30,
    "request_overlap": 0.22,
    "cluster_overlap": 0.15,
    "token_overlap": 0.45,
}  # as shares of the way from chance to 1


def parameters_of(
    shape: ModelShape, asked: StatisticsSettings, source: Trace | None = None, fitted: Measured | None = None
) -> Parameters:
    """The parameters: from the settings, else from statistics `fitted` to `source`, else defaults."""
    chance = shape.top_k / shape.experts
    usual = {
        "entropy_bits": 0.6 * float(np.log2(shape.experts)),
        **{name: chance + part * (1 - chance) for name, part in _USUAL_OVERLAPS.items()},
        "load_cv": min(0.3, float(np.sqrt(1 / chance - 1))),
    }
    known = {name: getattr(fitted.statistics, name) if fitted else (usual[name],) * shape.layers for name in usual}
    for name in usual:
        if given := _given(asked, name):
            known[name] = given * shape.layers if len(given) == 1 else given
    clusters = asked.clusters if asked.clusters is not None else fitted.clusters if fitted else 16
    if clusters == 1 and asked.cluster_overlap:
        raise FieldError("cluster_overlap", "cannot be set with one cluster, where `load_cv` determines it")
    meta = source.meta if source else None
    recall = asked.trajectory_recall
    if recall is None and fitted:
        recall = fitted.trajectory_recall
    return Parameters(
        shape=shape,
        statistics=Statistics(**known),
        clusters=clusters,
        topic_change=asked.topic_change,
        drift=asked.drift,
        token_similarity=asked.token_similarity,
        trajectory_recall=recall,
        lookahead=_lookahead(asked, shape, fitted),
        gate_complete=meta.gate_complete if meta else True,
        prefill=not asked.no_prefill and (meta is None or meta.prefill),
        embedding=not asked.no_embeddings and (meta is None or meta.embedding),
        seed=asked.seed,
    )


def lengths_of(asked: LengthSettings, source: Trace | None, seed: int) -> Lengths:
    """Lengths from the settings: constants first, else those of the workload or of `source`, else defaults."""
    rng = np.random.default_rng(seed)
    if asked.workload:
        found = Lengths.of_workload(sample(read_workload(asked.workload), rng, requests=asked.requests))
    elif source:
        found = Lengths.of_trace(source, asked.requests, rng)
    else:
        found = Lengths.constant(asked.requests or 100, 64, 128)
    if asked.prompt_tokens is not None:
        found = replace(found, prompt_tokens=np.full(len(found), asked.prompt_tokens))
    if asked.output_tokens is not None:
        found = replace(found, output_tokens=np.full(len(found), asked.output_tokens))
    return found


def refuse_unreachable(asked: StatisticsSettings, parameters: Parameters, calibration: Calibration) -> None:
    """Raise `FieldError` if the model cannot reach a requested statistic, before anything is written."""
    for one in fields(Statistics):
        wanted, got = (np.array(getattr(which, one.name)) for which in (parameters.statistics, calibration.expected))
        scale = np.log2(parameters.shape.experts) if one.name == "entropy_bits" else 1
        layer = int(np.abs(wanted - got).argmax())
        if one.name == "cluster_overlap" and parameters.clusters == 1:
            continue
        if _given(asked, one.name) and abs(wanted[layer] - got[layer]) > _REACHED * scale:
            raise FieldError(
                _setting(one.name),
                f"cannot be {wanted[layer]:g} in layer {layer}: the nearest value possible with the other statistics "
                f"is {got[layer]:.3f}; `request_overlap` must be at least `cluster_overlap`, and a higher `load_cv` "
                "raises every overlap",
            )
    recall, reached = asked.trajectory_recall, calibration.trajectory_recall
    if recall is not None and reached is not None and abs(recall - reached) > _REACHED:
        raise FieldError(
            "trajectory_recall",
            f"cannot be {recall:g}: the nearest value possible with the other statistics is {reached:.3f}; it must lie "
            "between `cluster_overlap` and `token_overlap`",
        )


def _setting(statistic: str) -> str:
    return statistic.removesuffix("_bits")


def _given(asked: StatisticsSettings, statistic: str) -> PerLayer:
    values: PerLayer = getattr(asked, _setting(statistic))
    return values


def _lookahead(asked: StatisticsSettings, shape: ModelShape, fitted: Measured | None) -> dict[int, float]:
    """Recall by lookahead distance."""
    known = fitted.lookahead if fitted else {}
    if asked.lookahead:
        distances = sorted(set(asked.lookahead))
        if distances[-1] >= shape.layers:
            raise FieldError("lookahead", f"must be from 1 to {shape.layers - 1} layers, not {distances[-1]}")
        usual = max(0.8, shape.top_k / shape.experts)
        known = {distance: known.get(distance, usual) for distance in distances}
    if asked.lookahead_recall is None:
        return known
    if not known:
        raise FieldError("lookahead_recall", "needs `lookahead`")
    return dict.fromkeys(known, asked.lookahead_recall)
