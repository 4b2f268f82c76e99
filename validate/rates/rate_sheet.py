"""Write the measurements of a machine: a data sheet to simulate with, and every measurement behind it."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from common.files import new_folder, write_json
from common.toml_files import write_toml
from sim.hardware.machine_files import machine_named
from sim.hardware.parts import Link
from validate.rates.fitted_rates import efficiencies, fitted_link
from validate.rates.framework_time import FrameworkTime, framework_time
from validate.rates.rate_measurements import Measurements, simulated_step_s
from validate.rates.rate_settings import MEASUREMENTS, RATE_FILES, SHEET

_REHEARSED_MEMORY = {"value": 1e9, "source": "assumption: a processor has no memory of its own"}
_BASIS = "mixtral-8x7b"  # the framework's times are fitted to this model; the errors show how well they fit others


def write_rates(folder: Path, found: Measurements, *, overwrite: bool = False) -> list[dict[str, Any]]:
    """Write sheet and measurements to a folder; returns the errors of the sheet.

    Each row has an operation or a decode step, its measured seconds, and the seconds simulated with the sheet.
    """
    with new_folder(folder, "the figures of a machine", replaces=RATE_FILES if overwrite else None) as scratch:
        write_toml(scratch / SHEET, sheet(found))
        rows = checked(found, scratch / SHEET)
        write_json(scratch / MEASUREMENTS, {**found.to_data(), "checked": rows}, sort=False)
    return rows


def sheet(found: Measurements) -> dict[str, Any]:
    """The data sheet, each figure with its source."""
    facts = found.facts
    source = f"measured: validate measure, {facts['device']}, torch {facts['torch']}, CUDA {facts['cuda']}"

    def figure(value: Any, note: str = "") -> dict[str, Any]:
        return {"value": value, "source": f"{source}{note and ', '}{note}"}

    links = {memory: _link(times) for memory, times in found.copies.items()}
    framework, peaks = framework_of(found), found.peaks
    side = peaks.product_side
    data: dict[str, Any] = {
        "name": found.settings.name or str(facts["device"]),
        "gpus": figure(1, f"{facts['gpus']} in this machine, of which one was measured"),
        "gpu": {
            "name": str(facts["device"]),
            "flops_per_s": figure(peaks.flops_per_s, f"bfloat16 product of {side} × {side} matrices"),
            "memory_bytes_per_s": figure(
                peaks.memory_bytes_per_s, f"copy of {peaks.copied_bytes} bytes, read and written"
            ),
            "memory_bytes": figure(found.memory_bytes) if found.memory_bytes else _REHEARSED_MEMORY,
            "overhead_s": figure(peaks.overhead_s, "an expert of 64 × 64"),
        },
        "host_link": _link_figures(links["pinned"], figure, "pinned"),
        "pageable_link": _link_figures(links["pageable"], figure, "pageable"),
        "peer_link": {
            "bytes_per_s": {
                "value": links["pinned"].bytes_per_s,
                "source": "assumption: as the host's link; not measured with one GPU",
            },
            "latency_s": {
                "value": links["pinned"].latency_s,
                "source": "assumption: as the host's link; not measured with one GPU",
            },
        },
        "framework": {
            "layer_s": figure(framework.layer_s, f"decoding {_BASIS} layers in Transformers {facts['transformers']}"),
            "expert_s": figure(framework.expert_s, f"decoding {_BASIS} layers, eager experts"),
        },
        "efficiency": {
            name: figure([list(point) for point in curve], "by tokens; the median of three models' shapes")
            for name, curve in efficiencies(found.operations, found.peaks).items()
        },
        "search": {
            "overhead_s": figure(found.search.overhead_s, "FineMoE's search, one processor core"),
            "bytes_per_s": figure(found.search.bytes_per_s, "FineMoE's search, one processor core"),
            "flops_per_s": figure(found.search.flops_per_s, "64 queries at once"),
        },
    }
    decoding = [one for one in found.contentions if one.tokens == 1]
    if decoding:
        data["contention"] = {
            name: figure(median(getattr(one, name) for one in decoding), "experts on one token beside pinned copies")
            for name in ("compute_slowdown", "copy_slowdown")
        }
    return data


def framework_of(found: Measurements) -> FrameworkTime:
    """The framework's times, fitted to one model."""
    return framework_time([one for one in found.steps if one.model == _BASIS])


def checked(found: Measurements, path: Path) -> list[dict[str, Any]]:
    """Every measured operation and decode step, with its seconds simulated by the sheet."""
    machine, framework = machine_named(str(path)), framework_of(found)
    rows = []
    for one in found.operations:
        cost = machine.cost(found.shape(one.model))
        if one.operation == "expert":
            said_s = cost.expert_s(one.tokens)
        elif one.operation == "head":
            said_s = cost.head_s(one.tokens)
        else:
            said_s = cost.dense_s(one.tokens, one.context, one.attended)
        rows.append(_row(one.model, one.operation, one.tokens, one.timing.median_s, said_s))
    for step in found.steps:
        shape = found.shape(step.model)
        said_s = simulated_step_s(step, shape, machine.cost(shape), framework.step_s)
        name = f"decode step, {step.layers} layers × {step.experts} experts"
        rows.append(_row(step.model, name, 1, step.wall_s, said_s))
    return rows


def summary(found: Measurements) -> str:
    """The main figures, for people."""
    pinned, pageable = (_link(found.copies[memory]) for memory in ("pinned", "pageable"))
    framework, peaks = framework_of(found), found.peaks
    lines = [
        f"Measured on {found.facts['device']}:",
        f"products              {peaks.flops_per_s / 1e12:8.1f} TFLOP/s at best",
        f"device memory         {peaks.memory_bytes_per_s / 1e9:8.1f} GB/s",
        f"pinned copies         {pinned.bytes_per_s / 1e9:8.2f} GB/s at best, latency {pinned.latency_s * 1e6:.1f} µs",
        f"pageable copies       {pageable.bytes_per_s / 1e9:8.2f} GB/s at best, "
        f"latency {pageable.latency_s * 1e6:.1f} µs",
        f"framework             {framework.layer_s * 1e3:8.3f} ms a layer, {framework.expert_s * 1e3:.3f} ms an expert",
    ]
    lines += [
        f"contention            computing × {one.compute_slowdown:.3f}, copies × {one.copy_slowdown:.3f} "
        f"({one.model}, {one.tokens} tokens)"
        for one in found.contentions
    ]
    return "\n".join(lines)


def error_summary(rows: Sequence[dict[str, Any]]) -> str:
    """The errors of the sheet, for people."""
    lines = []
    for name in dict.fromkeys(str(row["operation"]).partition(",")[0] for row in rows):
        off = [abs(row["error"]) for row in rows if str(row["operation"]).startswith(name)]
        lines.append(f"The sheet is off by {median(off):.1%} in the median, {max(off):.1%} at most: {name}")
    return "\n".join(lines)


def _row(model: str, operation: str, tokens: int, measured_s: float, sheet_s: float) -> dict[str, Any]:
    return {
        "model": model,
        "operation": operation,
        "tokens": tokens,
        "measured_s": measured_s,
        "sheet_s": sheet_s,
        "error": sheet_s / measured_s - 1,
    }


def _link(times: Any) -> Link:
    return fitted_link({size: timing.median_s for size, timing in times.items()})


def _link_figures(link: Link, figure: Any, memory: str) -> dict[str, Any]:
    return {
        "bytes_per_s": figure(link.bytes_per_s, f"{memory} memory"),
        "latency_s": figure(link.latency_s, f"{memory} memory"),
        "efficiency": figure([list(point) for point in link.efficiency], f"{memory} memory, by bytes of a copy"),
    }
