"""Text report of a comparison: two lines that say what the times stand for, a table, and notes."""

from collections.abc import Iterator, Sequence

from common.tables import number, numbers, size, text_table
from sim.labels import footnotes, marked
from sim.results.policy_comparison import PolicyComparison
from sim.results.result import Result
from sim.results.summary import Summary
from sim.results.working_set import cache_too_small
from traces.format import provenance


def report(comparison: PolicyComparison) -> str:
    """Heading, table and notes."""
    first = comparison.results[0]
    learned = first.provenance["history"]
    lines = [heading(first)]
    if learned:
        lines.append(f"learned from {learned['name']} ({provenance.label(learned['kind'], learned['warning'])})")
    for trace in filter(None, (first.provenance["trace"], learned)):
        lines += provenance.caution(trace["warning"], name=trace["name"])
    return "\n".join([*lines, "", table(comparison.summaries()), *notes(comparison)])


def heading(result: Result) -> str:
    """Two lines that say what the times stand for."""
    trace, model, machine = (result.provenance[name] for name in ("trace", "model", "machine"))
    slots, total = result.provenance["cache_experts"], model["layers"] * model["experts"]
    expert_bytes = result.provenance["expert_bytes"]
    room, memory = size(slots * expert_bytes), machine["memory_bytes"]
    if memory:
        room += f" of their {memory / 1e9:.0f} GB"
    requests, of = result.summary["requests"], model["name"]
    if result.summary["simulated"]:
        what = (
            f"Simulated, not measured: {requests} requests of {trace['name']} "
            f"({provenance.routing(trace['kind'], trace['model'], trace['warning'])}) with the sizes of {of}"
        )
    else:
        kind = provenance.label(trace["kind"], trace["warning"])
        what = f"Measured, not simulated: {requests} requests of {trace['name']} ({kind}) by {of}"
    return (
        f"{what}\non {machine['described']}; {'the GPUs hold' if memory else 'the cache holds'} "
        f"{slots} of {total} experts ({slots / total:.0%}), {room}; all experts take {size(total * expert_bytes)}"
    )


def table(summaries: Sequence[Summary]) -> str:
    """A row per policy, times in milliseconds, rates in percent."""
    headers = [
        "policy",
        "TTFT ms\nmean / p50 / p95",
        "TPOT ms\nmean / p50 / p95",
        "TPOT over\nno-offload",
        "TPOT over\nbest known",
        "hit rate %\nall / prefill / decode",
        "late\n%",
        "miss\n%",
        "prefetches %\nuseful / late / wasted",
        "copied\nMB/token",
        "peak expert\nmemory GB",
    ]
    rows = [
        [
            marked(each["label"], each),
            _cells(each, ["ttft_s_mean", "ttft_s_p50", "ttft_s_p95"], 1e3, 1),
            _cells(each, ["tpot_s_mean", "tpot_s_p50", "tpot_s_p95"], 1e3, 1),
            number(each["tpot_over_no_offload"], ".2f", unit=" ×"),
            number(each["tpot_over_best_known"], ".2f", unit=" ×"),
            _cells(each, ["hit_rate", "hit_rate_prefill", "hit_rate_decode"], 100, 1),
            _cells(each, ["late_rate"], 100, 1),
            _cells(each, ["miss_rate"], 100, 1),
            _cells(each, ["prefetch_useful", "prefetch_late", "prefetch_wasted"], 100, 0),
            _cells(each, ["bytes_per_token"], 1e-6, 0),
            _cells(each, ["expert_memory_bytes"], 1e-9, 2),
        ]
        for each in summaries
    ]
    return text_table(rows, headers)


def notes(comparison: PolicyComparison) -> Iterator[str]:
    """What a reader must know of runs, a paragraph for each label and note with the policies that it is of."""
    small = filter(None, (cache_too_small(result.summary) for result in comparison.results))
    yield from (f"\n{line}" for line in dict.fromkeys(small))  # the cache is the same for all
    if comparison.best_known:
        yield f"\n{best_known(comparison)}"
    resident = [comparison.resident] if comparison.resident else []
    runs = {run.scenario.policy: run for run in [*comparison.results, *comparison.best_known]}.values()
    for footnote in footnotes((run.summary["label"], run.summary) for run in [*runs, *resident]):
        yield f"\n{footnote}"
    for note in dict.fromkeys(run.summary["note"] for run in runs if run.summary["note"]):
        policies = [run.summary["label"] for run in runs if run.summary["note"] == note]
        yield f"\n{', '.join(policies)}: {note}"


def best_known(comparison: PolicyComparison) -> str:
    """Which run the best known is, out of which."""
    names = " = ".join(run.summary["label"] for run in comparison.best_known)
    return (
        f"best known: {names}, with the lowest mean TPOT of {', '.join(comparison.know_all)}; these know every demand "
        "to come, but are heuristics, not bounds"
    )


def _cells(summary: Summary, keys: Sequence[str], factor: float, digits: int) -> str:
    """The figures in one cell, a dash for each that is null."""
    return numbers([summary[key] for key in keys], f".{digits}f", factor)
