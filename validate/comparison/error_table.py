"""Text report comparing simulated with measured figures."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from common.folding import folded
from common.tables import number, quantity, text_table
from sim.labels import footnotes, marked
from sim.results.summary import Summary
from traces.format import provenance
from validate.comparison.errors_by_metric import BRIEF_METRICS, COUNTS, METRICS, Metric
from validate.comparison.matching import Folder

FAR = 0.1  # relative error of TPOT from which a cause is worth looking for
ABOUT = 0.9  # of an error: another that is larger is about as large


def heading(simulated: Folder, measured: Folder) -> str:
    """What is compared, and what its errors mean."""
    inputs, model = simulated.provenance, simulated.provenance["model"]
    lines = (
        f"Simulated on {inputs['machine']['described']}, measured on {measured.provenance['machine']['described']}: "
        f"{quantity(simulated.summary['requests'].iloc[0], 'request')} of {routing_of(simulated)}\n"
        f"with the sizes of {model['name']}, {inputs['cache_experts']} of {model['layers'] * model['experts']} experts "
        "in the cache"
    ).splitlines()
    lines += [*cautions(simulated), "Errors are simulated − measured; relative ones are shares of what was measured."]
    return "".join(f"{folded(line, indent='  ')}\n" for line in lines)


def routing_of(folder: Folder) -> str:
    """The trace, and what kind of routing is in it."""
    trace = folder.provenance["trace"]
    return f"{trace['name']} ({provenance.routing(trace['kind'], trace['model'], trace['warning'])})"


def cautions(folder: Folder) -> list[str]:
    """How the trace differs from natural text, in lines."""
    return provenance.caution(folder.provenance["trace"]["warning"])


def text(compared: pd.DataFrame, simulated: Folder, measured: Folder) -> str:
    """The report for people: a table per policy, exact counts of all policies, and the meaning of marks."""
    rows = objects(compared)
    runs = {policy: _runs_of(policy, simulated, measured) for policy in dict.fromkeys(row["policy"] for row in rows)}
    names = {policy: marked(policy, *summaries) for policy, summaries in runs.items()}
    blocks = []
    for policy, name in names.items():
        found = {row["metric"]: row for row in rows if row["policy"] == policy}
        cells = [[metric.name, metric.printed, *_cells(metric, found[metric.column])] for metric in METRICS]
        blocks.append(_table([name, "", "simulated", "measured", "absolute\nerror", "relative\nerror"], cells))
    counted = {metric.column: metric.name for metric in COUNTS}
    counts = [
        [names[row["policy"]], counted[row["metric"]], *_counts(row), _difference(row)]
        for row in rows
        if row["metric"] in counted
    ]
    blocks.append("Exact counts; for a policy that copies on demand only, all of them must match exactly.")
    blocks.append(_table(["policy", "experts", "simulated", "measured", "difference"], counts))
    return "\n\n".join([*blocks, *footnotes((policy, each) for policy in runs for each in runs[policy])])


def brief_text(compared: pd.DataFrame, simulated: Folder, measured: Folder) -> str:
    """One table of all policies with the main figures alone, and what the marks of policies mean."""
    rows = {(row["policy"], row["metric"]): row for row in objects(compared)}
    runs = {policy: _runs_of(policy, simulated, measured) for policy, _ in rows}
    cells = []
    for policy, summaries in runs.items():
        name = marked(policy, *summaries)
        for metric in BRIEF_METRICS:
            measures = _cells(metric, rows[policy, metric.column])
            cells.append([name, f"{metric.name}, {metric.printed}", *measures[:2], measures[-1]])
            name = ""
    table = _table(["policy", "figure", "simulated", "measured", "relative\nerror"], cells)
    return "\n\n".join([table, *footnotes((policy, each) for policy in runs for each in runs[policy])])


def agreement(compared: pd.DataFrame, simulated: Folder, measured: Folder) -> str:
    """Whether what must agree agrees, and why times need not."""
    on_demand, wrong, prefetching = [], [], []
    for policy in dict.fromkeys(compared["policy"]):
        runs = _runs_of(policy, simulated, measured)
        if any(run["prefetched_copies"] for run in runs):
            prefetching.append(policy)
        elif not any(run["preloaded"] for run in runs):
            on_demand.append(policy)
            for metric in ("hits", "misses", "copied_bytes"):
                one, other = (run[metric] for run in runs)
                if one != other:
                    wrong.append(f"{metric.replace('_', ' ')} of {policy} ({one} simulated, {other} measured)")
    sentences = []
    if wrong:
        sentences.append(f"These must agree and do NOT: {', '.join(wrong)}; without prefetching they must be equal.")
    elif on_demand:
        copy, have = ("copies", "has") if len(on_demand) == 1 else ("copy", "have")
        which = f"{', '.join(on_demand)}, which {copy} on demand only"
        sentences.append(f"What must agree agrees: {which}, {have} equal hits, misses and bytes.")
    if measured.provenance["machine"]["name"].startswith("cpu"):
        shared = _shared_error(compared, on_demand, prefetching)
        python = (
            f"the predictor ({', '.join(prefetching)}) is Python in the model's process, and " if prefetching else ""
        )
        calibrated = simulated.provenance["machine"]["described"].startswith("a measured profile")
        measure, them = ("calibrate and replay measure", "both") if calibrated else ("replay measures", "it")
        other = f"other work on the machine lengthens what {measure}"
        sentences.append(shared or f"Times differ: {python}{other}; run {them} on a quiet machine.")
    return " ".join(sentences)


def _shared_error(compared: pd.DataFrame, on_demand: Sequence[str], prefetching: Sequence[str]) -> str | None:
    """A remark if a policy that copies on demand is about as far off as those that prefetch: it has no predictor."""
    tpot = compared[compared["metric"] == "tpot_s_mean"].dropna(subset="relative_error")
    errors = {str(policy): float(error) for policy, error in zip(tpot["policy"], tpot["relative_error"], strict=True)}
    plain, other = (
        max((each for each in policies if each in errors), key=lambda each: abs(errors[each]), default=None)
        for policies in (on_demand, prefetching)
    )
    if plain is None or other is None:
        return None
    if abs(errors[plain]) < max(FAR, ABOUT * abs(errors[other])) or errors[plain] * errors[other] < 0:
        return None
    row = next(metric.name for metric in METRICS if metric.column == "tpot_over_no_offload")
    return (
        f"Times differ, but the predictor is not the main cause: TPOT of {plain}, which has none, is about as far off "
        f"({errors[plain]:+.1%}, {other} {errors[other]:+.1%}). Run on a quiet machine, or compare {row}."
    )


def notes(simulated: pd.DataFrame, measured: pd.DataFrame) -> Iterator[str]:
    """A line for each folder with policies that the other lacks."""
    for kind, one, other in (("simulated", simulated, measured), ("measured", measured, simulated)):
        alone = [policy for policy in one["policy"] if policy not in set(other["policy"])]
        if alone:
            yield f"only {kind}, so not compared: {', '.join(alone)}"


def _runs_of(policy: str, *folders: Folder) -> list[Summary]:
    """The figures of a policy's runs, simulated and measured."""
    return [each.summary for folder in folders for each in folder.results if each.scenario.policy == policy]


def _counts(row: dict[str, Any]) -> list[str]:
    return [f"{row[key]:.0f}" for key in ("simulated", "measured")]


def _cells(metric: Metric, row: dict[str, Any]) -> list[str]:
    """Simulated, measured, absolute and relative error; a dash for what is missing."""
    scaled = [("simulated", ""), ("measured", ""), ("absolute_error", "+")]
    values = [(row[key], f"{sign}.{metric.digits}f", metric.factor) for key, sign in scaled]
    values.append((row["relative_error"], "+.1%", 1))
    return [number(value, form, factor) for value, form, factor in values]


def _difference(row: dict[str, Any]) -> str:
    return f"{row['absolute_error']:+.0f}" if row["absolute_error"] else "equal"


def _table(headers: list[str], cells: list[list[str]]) -> str:
    return text_table(cells, headers, texts=headers.index("simulated"))


def objects(compared: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows for JSON; a missing value is null."""
    rows: list[dict[str, Any]] = compared.astype(object).where(compared.notna(), None).to_dict("records")  # type: ignore
    return rows
