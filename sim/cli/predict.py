"""`finemoe sim predict`: measure how well policies predict, without time or caches."""

import json as json_text
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from common.applications import OUTPUT, OVERWRITE
from sim.experiment import Experiment
from sim.scenario_options import RUN, takes_scenario

if TYPE_CHECKING:
    from sim.forecast.prediction_quality import Quality


@takes_scenario("trace", "policy", "history", "train_split", "requests", "batch_size", "seed", "check")
def predict(
    experiment: Experiment,
    *,
    distance: Annotated[
        str | None,
        Parameter(
            group=RUN,
            help="Prefetch distances, such as 3 or 1,2,4 or 1..8. If a policy's distance is fixed, by its design or by "
            "its prefetch_distance setting, it runs once and is shown at every distance for which it plans. Default: "
            "1..8, or all layers if fewer.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        Parameter(
            group=OUTPUT,
            help="Write a table to FILE.parquet, one row per policy, distance, kind of iteration and layer.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Draw recall over distance to FILE.png, .svg or .pdf.")
    ] = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print the rows of --out as a JSON list of objects.")] = False,
    wide: Annotated[bool, Parameter(group=OUTPUT, help="Print all columns, in lines of any width.")] = False,
) -> None:
    """Show a trace to policies, and count how many of the executed experts they predicted.

    Searches are instantaneous; no cache is modelled. At distance d, the prediction for a layer of an iteration is the
    last plan made at least d layers before it. A layer with fewer than d layers before it is judged by its last plan.

    Recall is the share of executed experts that were planned. Precision is the share of planned experts that were
    executed. Recall@K is the recall of the K highest-ranked experts, where K is the number executed. Coverage is the
    share of (iteration, layer) events with a plan. Lead is the mean number of layers by which
    the judged plans were ahead.
    """
    from common.outputs import picture, reserved, table, then_printed
    from common.settings import check_suffix
    from sim.forecast import recall_figure
    from sim.forecast.prediction_quality import prediction_quality
    from sim.forecast.quality_table import heading, report

    check_suffix("out", out, ".parquet")
    with reserved(table(out, "distance", "planned_events"), picture(plot), overwrite=overwrite):
        quality = prediction_quality(experiment, distance)
        text = partial(_rows, quality) if json else partial(report, quality, wide=wide)
        with then_printed(text, out, plot, quiet=json):
            if out:
                quality.write(out, overwrite=overwrite)
            if plot:
                recall_figure.draw(quality.summary(), heading(quality), plot, uncharged=quality.uncharged)


def _rows(quality: "Quality") -> str:
    from sim.trace_naturalness import trace_columns

    rows = quality.layers.assign(**trace_columns(quality.settings["trace"]))
    return json_text.dumps(json_text.loads(rows.to_json(orient="records", double_precision=15)), indent=2)
