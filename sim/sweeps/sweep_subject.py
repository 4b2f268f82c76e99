"""The subject of a sweep, for headings: routing, model sizes, machine and cache."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from common.tables import quantity, size
from sim.sweeps.sweep_columns import OUTCOMES, plain, plain_rows, value_text
from traces.format import provenance

SHOWN = 3  # values shown of something that varies


def heading(frame: pd.DataFrame, axes: Sequence[str], experiment: Mapping[str, Any]) -> list[str]:
    """Lines on what was simulated, over which axes, and with how many runs."""
    counts = frame["status"].value_counts()
    outcomes = ", ".join(f"{counts[each]} {each}" for each in OUTCOMES if each in counts) or "none"
    axis_lines = (f"axis {axis}: {_values(frame[axis])}" for axis in axes)
    return [*subject(frame, experiment), *axis_lines, f"{quantity(len(frame), 'run')}: {outcomes}"]


def subject(frame: pd.DataFrame, experiment: Mapping[str, Any]) -> list[str]:
    """Lines on what was simulated."""
    lines = [f"Simulated, not measured: {_routing(frame, experiment)}"]
    if done := _done(frame):
        lines[0] += f" with the sizes of {_listed(done, lambda run: run['model'])}"
        lines.append(f"on {_listed(done, lambda run: run['machine_described'])}; {_cache(done)}")
        lines += _cautions(done, width=100)
    return lines


def title(frame: pd.DataFrame, experiment: Mapping[str, Any]) -> str:
    """The title of a picture, in lines."""
    done = _done(frame)
    sizes, machines = _listed(done, lambda run: run["model"]), _listed(done, lambda run: run["machine_described"])
    lines = [f"Simulated: {_routing(frame, experiment)} with the sizes of {sizes}", f"on {machines}; {_cache(done)}"]
    return "\n".join([*lines, *_cautions(done, width=1000)])  # the picture folds them to its own width


def _done(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The distinct facts about finished runs that headings need, as plain data."""
    names = ["trace", "trace_kind", "trace_warning", "traced_model", "model", "machine_described"]
    names += ["cache_experts", "total_experts", "expert_bytes", "history_trace", "history_warning"]
    runs = frame[frame["status"] == "done"].reindex(columns=names).drop_duplicates()
    return plain_rows(runs)


def _routing(frame: pd.DataFrame, experiment: Mapping[str, Any]) -> str:
    if done := _done(frame):
        return _listed(done, lambda run: f"{_last(run['trace'])} ({_kind_of(run)})")
    scenario = experiment.get("scenario", {})
    trace = scenario.get("trace") if isinstance(scenario, Mapping) else None
    return f"{_last(trace)}; no run finished" if trace else "no run finished"


def _kind_of(run: Mapping[str, Any]) -> str:
    return provenance.routing(run["trace_kind"], run["traced_model"], run["trace_warning"])


def _cautions(done: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Cautions about traces (and history traces) that are unlike natural text, a line or more for each."""
    columns = (("trace", "trace_warning"), ("history_trace", "history_warning"))
    warned = dict.fromkeys((_last(run[trace]), run[warning]) for trace, warning in columns for run in done)
    return [line for name, warning in warned for line in provenance.caution(warning, name=name, width=width)]


def _last(trace: object) -> str:
    """The name of a trace, from its name or path."""
    return str(trace).rstrip("/").rpartition("/")[2]


def _cache(done: Sequence[Mapping[str, Any]]) -> str:
    slots = sorted({run["cache_experts"] for run in done})
    totals = sorted({run["total_experts"] for run in done})
    if None in slots or None in totals:
        return "the cache varies"
    if len(totals) > 1:
        shares = sorted(run["cache_experts"] / run["total_experts"] for run in done)
        return f"the cache holds {_span([f'{share:.0%}' for share in shares])} of all experts"
    sizes = sorted(run["cache_experts"] * run["expert_bytes"] for run in done)
    shares = [f"{count / totals[0]:.0%}" for count in slots]
    return (
        f"the cache holds {_span([str(count) for count in slots])} of {totals[0]} experts ({_span(shares)}), "
        f"{_span([size(each) for each in sizes])}"
    )


def _span(texts: Sequence[str]) -> str:
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def _listed(runs: Sequence[Mapping[str, Any]], say: Callable[[Mapping[str, Any]], str]) -> str:
    texts = list(dict.fromkeys(str(say(run)) for run in runs))
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


def _values(column: "pd.Series[Any]") -> str:
    """The values of an axis, in the order of the matrix."""
    return ", ".join(dict.fromkeys(value_text(plain(value)) for value in column))
