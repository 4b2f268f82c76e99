"""Report on a synthetic trace: statistics requested, expected from the model, and measured."""

from typing import Any

from common.folding import folded
from common.tables import text_table
from traces.format import provenance
from traces.synthetic.synthesis import Synthesis
from traces.synthetic.trajectory_search import DISTANCE

_NAMES = {
    "entropy_bits": "entropy of a decode iteration [bits]",
    "overlap": "overlap with the previous iteration",
    "request_overlap": "overlap within a request, distant",
    "cluster_overlap": "overlap between requests of a cluster",
    "token_overlap": "overlap between requests, same token",
    "load_cv": "load of experts, coefficient of variation",
}


def report(made: Synthesis) -> str:
    """A table of the statistics, with notes."""
    parameters, calibration, found, fitted = made.parameters, made.calibration, made.measured, made.like
    means = [parameters.statistics.mean(), calibration.expected.mean(), found.statistics.mean()]
    rows: list[list[Any]] = [[name, *(f"{one[key]:.3f}" for one in means)] for key, name in _NAMES.items()]
    rows.append(["clusters", parameters.clusters, "", found.clusters])
    if calibration.trajectory_recall is not None:
        recalls = [parameters.trajectory_recall, calibration.trajectory_recall, found.trajectory_recall]
        name = f"recall of the nearest map, {DISTANCE} layers ahead"
        rows.append([name, *("" if one is None else f"{one:.3f}" for one in recalls)])
    for distance, recall in parameters.lookahead.items():
        reached = [recall, calibration.lookahead[distance], found.lookahead[distance]]
        rows.append([f"lookahead {distance}: recall of its top K", *(f"{one:.3f}" for one in reached)])
    table = text_table(rows, ["mean over layers", "requested", "model", "measured"])
    head = f"{made.path} ({provenance.explained('synthetic')}), in the shape of {parameters.shape.name}"
    notes = []
    if found.clusters != parameters.clusters:
        notes.append(
            "Measured: clusters are searched for among whole requests. Too few requests or changes of topic hide them; "
            "the overlap between requests of a cluster then mixes several clusters."
        )
    if fitted:
        clear = "too few requests for clustering" if fitted.silhouette is None else f"{fitted.silhouette:.2f}"
        notes.append(
            "Requested: as measured in the imitated trace, unless given (silhouette of its clusters: "
            f"{clear}). Not imitated: changes of topic, drift, embeddings."
        )
    if not parameters.gate_complete:
        notes.append("Gates and their entropy cover only the executed experts, as in the imitated trace.")
    if parameters.drift or parameters.topic_change:
        notes.append("Requested and model describe one moment and topic; measured includes drift and changes of topic.")
    return "\n\n".join([head, table, *map(folded, notes)])
