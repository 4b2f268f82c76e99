"""`finemoe sim predict`: how well policies predict, apart from time and caches."""

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from common.commands import OUTPUT
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
            help="Prefetch distances, as 3, 1,2,4 or 1..8 (default: 1..8, or as many as there are layers). A policy "
            "whose distance is fixed, by itself or by a setting, is shown at every distance for which it plans.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        Parameter(group=OUTPUT, help="Write a new Parquet file, a row per policy, distance, kind of iteration, layer."),
    ] = None,
    plot: Annotated[Path | None, Parameter(group=OUTPUT, help="Draw recall over distance: .png, .svg or .pdf.")] = None,
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print the rows of --out, a list of objects.")] = False,
    wide: Annotated[bool, Parameter(group=OUTPUT, help="Print all columns, in lines of any width.")] = False,
) -> None:
    """Feed policies a trace, with an infinitely fast predictor and without a cache, and count what they predict.

    At a distance, the prediction for an (iteration, layer) event is the last plan that was made at least so many layers
    before; the first layers, which have not as many before them, are judged by their last plan. Recall is the share of
    the executed experts that were planned, precision the share of the planned that were executed, recall@K the recall
    of the first as many as were executed, coverage the share of events with a plan. The lead is the mean of the plans
    that count.
    """
    from common.outputs import new, picture, reserved, then_printed
    from sim.forecast import recall_figure
    from sim.forecast.prediction_quality import prediction_quality
    from sim.forecast.quality_table import heading, report

    with reserved(new(out), picture(plot)):
        quality = prediction_quality(experiment, distance)
        with then_printed(lambda: _rows(quality) if json else report(quality, wide=wide)):
            if out:
                quality.write(out)
            if plot:
                recall_figure.draw(quality.summary(), heading(quality), plot, uncharged=quality.uncharged)


def _rows(quality: "Quality") -> str:
    from sim.trace_naturalness import trace_columns

    rows = quality.layers.assign(**trace_columns(quality.settings["trace"]))
    return json_text.dumps(json_text.loads(rows.to_json(orient="records", double_precision=15)), indent=2)
