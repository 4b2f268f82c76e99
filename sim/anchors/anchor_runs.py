"""Carry the anchors out: one sweep for each, through the result store, so that nothing is computed twice."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.errors import FieldError
from common.files import scratch_folder
from common.settings import to_data
from policies.types import ModelShape
from sim.anchors.anchor import Anchor, AnchorPoint, Variation
from sim.anchors.anchor_table import BASE, AnchorTable
from sim.anchors.anchor_traces import quantised, resized, with_hit_rate
from sim.axes import flattened
from sim.experiment import Experiment
from sim.hardware.presets import read_data_sheet
from sim.scenario import CacheSize, Scenario
from sim.sweeps.run_table import Row
from sim.sweeps.sweep_columns import plain_rows
from sim.sweeps.sweep_run import run_sweep
from sim.sweeps.workers import Workers
from traces.format import provenance
from traces.format.reader import Trace

REQUESTS = 4  # at most, outside the history
AS_ASSUMED = Variation(name=BASE, meaning="everything as assumed")


def run_anchors(anchors: Sequence[Anchor], routing: Path, *, store: Path, workers: Workers) -> AnchorTable:
    """Simulate every point under every variation, reusing runs in the store.

    `routing` is a trace with Mixtral's layers, experts per layer and top-k. Raises a `UserError` if it or the store is
    unusable.
    """
    trace = Trace.open(routing)
    for anchor in anchors:
        if anchor.replays_routing:
            _check(trace, anchor.shape)
    rows: list[Row] = []
    for number, anchor in enumerate(anchors, 1):
        # Traces are written again each time, because keys of runs cover content, not paths.
        with scratch_folder() as folder:
            rows += _AnchorRuns(anchor, trace, folder).rows(store, workers, f"anchor {number} of {len(anchors)}")
    return AnchorTable(
        rows=rows, inputs={"simulated": True, "routing": _described(trace), "machines": _sheets(anchors)}
    )


class _AnchorRuns:
    """The runs of one anchor."""

    def __init__(self, anchor: Anchor, trace: Trace, folder: Path) -> None:
        self._anchor, self._trace, self._folder = anchor, trace, folder
        self._written: dict[tuple[float, float | None], Path] = {}

    def rows(self, store: Path, workers: Workers, name: str) -> Iterator[Row]:
        cases = [
            (point, variation, self._point(point, variation))
            for variation in (AS_ASSUMED, *self._anchor.variations)
            for point in self._anchor.points
            if variation.applies_to(point)
        ]
        first = cases[0][2]
        scenario = Scenario(
            Path(first["trace"]),
            policy=first["policy"],
            machine=first["machine"],
            cache=CacheSize(experts=first["cache.experts"]),
            requests=REQUESTS,
            detail="requests",
        )
        experiment = Experiment(scenario=scenario, list=[point for _, _, point in cases])
        frame = run_sweep(experiment, store=store, references=(), workers=workers, name=name).frame
        found = {_named(run.point): row for run, row in zip(experiment.matrix(), plain_rows(frame), strict=True)}
        for point, variation, axes in cases:
            yield self._row(point, variation, found[_named(axes)])

    def _point(self, point: AnchorPoint, variation: Variation) -> dict[str, Any]:
        """The run of a point as values of a scenario's fields."""
        bits = point.bits if variation.bits is None else variation.bits
        shape = quantised(self._anchor.shape, bits, unpacked=self._anchor.unpacked)
        machine = ",".join(filter(None, (str(self._anchor.sheet), _changed(point.machine, variation.machine))))
        return {
            "trace": str(self._routing(point, shape, bits)),
            "policy": variation.policy or point.policy,
            "machine": machine,
            "cache.experts": _experts(point, variation, shape),
            "train_split": 0.7 if point.hit_rate is None else 0.0,
        }

    def _routing(self, point: AnchorPoint, shape: ModelShape, bits: float) -> Path:
        key = (bits, point.hit_rate)
        if key not in self._written:
            path = self._folder / f"{self._anchor.key}-{len(self._written)}.trace"
            if point.hit_rate is None:
                resized(self._trace, shape, path)
            else:
                assert self._anchor.tokens is not None
                with_hit_rate(shape, point.hit_rate, self._anchor.tokens, path)
            self._written[key] = path
        return self._written[key]

    def _row(self, point: AnchorPoint, variation: Variation, run: Row) -> Row:
        anchor = self._anchor
        measured = anchor.seconds(point.measured)
        simulated = run.get("tpot_s_mean")
        return {
            "anchor": anchor.key,
            "point": point.name,
            "variation": variation.name,
            "policy": variation.policy or point.policy,
            "measured": point.measured,
            "unit": anchor.unit,
            "measured_s_per_token": measured,
            "simulated_s_per_token": simulated,
            "error": None if simulated is None else simulated / measured - 1,
            "published_hit_rate": point.hit_rate,
            **{
                name: run.get(name)
                for name in (
                    *("hit_rate", "hit_or_late_rate", "bytes_per_token", "cache_experts", "expert_bytes"),
                    *("output_tokens", "status", "reason"),
                )
            },
            "source": anchor.url,
        }


def _check(trace: Trace, shape: ModelShape) -> None:
    """A `FieldError` if a trace's routing is not for as many layers and experts as the model has."""
    for what, has, needs in (
        ("layers", trace.shape.layers, shape.layers),
        ("experts per layer", trace.shape.experts, shape.experts),
        ("experts per token", trace.shape.top_k, shape.top_k),
    ):
        if has != needs:
            raise FieldError("routing", f"{trace.path.name} has {has} {what}, {shape.name} has {needs}")


def _named(point: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(point.items()))


def _changed(own: str, varied: str) -> str:
    """The point's changes to the machine, overridden by the variation's."""
    figures = dict(each.split("=", 1) for each in ",".join(filter(None, (own, varied))).split(",") if each)
    return ",".join(f"{key}={value}" for key, value in figures.items())


def _experts(point: AnchorPoint, variation: Variation, shape: ModelShape) -> int:
    """The number of slots, computed from gigabytes if those are given."""
    for source in (variation, point):
        if source.cache_experts is not None:
            return source.cache_experts
        if source.cache_gb is not None:
            return CacheSize(gb=source.cache_gb).slots(shape)
    raise ValueError(f"{point.name}: the size of the cache is missing")


def _described(trace: Trace) -> Row:
    meta = trace.meta
    return {
        "routing": provenance.routing(meta.kind, meta.model, None),
        "decoded_tokens": provenance.tokens(meta.generation),
        "prompts": meta.prompts,
        "digest": trace.digest,
        "requests": REQUESTS,
    }


def _sheets(anchors: Sequence[Anchor]) -> Row:
    """A description of each machine, and its values with their sources."""
    found = {}
    for anchor in anchors:
        sheet = read_data_sheet(anchor.sheet)
        figures = flattened({name: each for name, each in to_data(sheet).items() if name != "sources"}, "machine")
        found[anchor.machine] = {
            "gpu": sheet.gpu.name,
            "described": sheet.describe(),
            "digest": sheet.digest,
            "figures": {key: {"value": _text(figures[key]), "source": each} for key, each in sheet.sources.items()},
        }
    return found


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
