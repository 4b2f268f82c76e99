"""From settings to a synthetic trace: measure the trace to imitate if any, calibrate, generate, measure the result."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import FieldError
from common.progress import bar, counted
from traces.format.reader import Trace
from traces.format.target import TraceTarget
from traces.synthetic.asked_parameters import lengths_of, parameters_of, refuse_unreachable
from traces.synthetic.coefficients import Calibration, calibrate
from traces.synthetic.drawn_trace import generate
from traces.synthetic.measured_statistics import ENOUGH, Measured, measure
from traces.synthetic.parameters import Parameters
from traces.synthetic.synthetic_settings import LengthSettings, ShapeSettings, StatisticsSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesis:
    """A synthetic trace, its parameters and its measured statistics."""

    path: Path
    parameters: Parameters
    calibration: Calibration
    measured: Measured  # the trace itself
    like: Measured | None  # the imitated trace


def synthesise(
    shape: ShapeSettings, statistics: StatisticsSettings, lengths: LengthSettings, target: TraceTarget
) -> Synthesis:
    """Generate a trace; raises `FieldError`, and writes nothing, if a requested statistic cannot be reached."""
    source = Trace.open(shape.like) if shape.like else None
    sizes = shape.sizes(source.shape if source else None)
    drawn = lengths_of(lengths, source, statistics.seed)
    fitted = measure(source, _watch("fit", "request"), seed=0) if source else None
    if len(drawn.output_tokens) < 2 or max(drawn.output_tokens) <= ENOUGH:
        raise FieldError(
            "requests",
            f"too few to measure their statistics: give at least 2, of which one has more than {ENOUGH} output tokens",
        )
    parameters = parameters_of(sizes, statistics, source, fitted)
    typical = round(float(np.mean(drawn.output_tokens)))
    calibration = calibrate(parameters, typical, _watch("calibrate", "layer"))
    refuse_unreachable(statistics, parameters, calibration)
    out = generate(
        parameters,
        calibration,
        drawn,
        target.out,
        notes={"like": source.path.name, "like_sha256": source.digest} if source else {},
        restart=target.restart,
        overwrite=target.overwrite,
    )
    measured = measure(Trace.open(out), _watch("measure", "request"))
    return Synthesis(path=out, parameters=parameters, calibration=calibration, measured=measured, like=fitted)


def _watch(what: str, unit: str) -> Callable[[Sequence[int]], Iterable[int]]:
    def watched(items: Sequence[int]) -> Iterator[int]:
        with bar(what, len(items), unit) as done:
            yield from counted(items, done)

    return watched
