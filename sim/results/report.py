"""The text report of a comparison: heading, tables and notes, in lines of 100 characters."""

import re
from collections.abc import Collection, Iterator, Sequence

from common.errors import either, listed
from common.folding import folded
from common.tables import number, quantity, size
from sim.hardware.origins import origins_text
from sim.labels import footnotes
from sim.results.policy_comparison import PolicyComparison
from sim.results.policy_tables import brief_table, figures_table, split_tables
from sim.results.result import Result
from sim.results.summary import Summary
from sim.results.working_set import cache_too_small
from traces.format import provenance


def brief_report(comparison: PolicyComparison) -> str:
    """Heading, the table of five columns, and the notes that it needs."""
    summaries = comparison.summaries()
    marks = footnotes((each["label"], each) for each in summaries)
    shared = _shared_notes(comparison.results)
    below = (folded(note, indent="  ") for note in (*proved(summaries), *shared, *marks, *_remarks(comparison.results)))
    return "\n\n".join([_head(comparison), brief_table(summaries), "\n".join(below)]).rstrip()


def report(comparison: PolicyComparison, *, wide: bool = False) -> str:
    """Heading, tables and notes; `wide` tables have all columns, in lines of any width."""
    summaries = comparison.summaries()
    tables = [figures_table(summaries, wide=wide), *split_tables(summaries, wide=wide)]
    return "\n\n".join([_head(comparison), *tables, *(folded(note, indent="  ") for note in notes(comparison))])


def _head(comparison: PolicyComparison) -> str:
    """What was run, what policies learned from, the sources of costs, and cautions about the routing."""
    first = comparison.results[0]
    learned = first.provenance["history"]
    lines = heading(first).splitlines()
    if learned:
        lines.append(f"learned from {learned['name']} ({provenance.label(learned['kind'], learned['warning'])})")
    if first.summary["simulated"]:
        lines.append(f"costs: {origins_text(first.provenance['machine']['origins'])}")
    for trace in filter(None, (first.provenance["trace"], learned)):
        lines += provenance.caution(trace["warning"], name=trace["name"])
    return "\n".join(folded(line, indent="  ") for line in lines)


def heading(result: Result) -> str:
    """Two lines on what was simulated or measured."""
    trace, model, machine = (result.provenance[name] for name in ("trace", "model", "machine"))
    slots, total = result.provenance["cache_experts"], model["layers"] * model["experts"]
    expert_bytes = result.provenance["expert_bytes"]
    room, memory, share = size(slots * expert_bytes), machine["memory_bytes"], number(slots / total, ".0%")
    if memory:
        room += f" of the GPUs' {memory / 1e9:.0f} GB"
    requests, of = quantity(result.summary["requests"], "request"), model["name"]
    if result.summary["simulated"]:
        what = (
            f"Simulated, not measured: {requests} of {trace['name']} "
            f"({provenance.routing(trace['kind'], trace['model'], trace['warning'])}) with the sizes of {of}"
        )
    else:
        kind = provenance.label(trace["kind"], trace["warning"])
        what = f"Measured, not simulated: {requests} of {trace['name']} ({kind}) by {of}"
    return (
        f"{what}\non {machine['described']}; the cache holds "
        f"{slots} of {total} experts ({share}), {room}; all experts take {size(total * expert_bytes)}"
    )


def notes(comparison: PolicyComparison) -> Iterator[str]:
    """Warnings about runs: a paragraph for each label and note, with the policies that it applies to."""
    small = filter(None, (cache_too_small(result.summary) for result in comparison.results))
    yield from dict.fromkeys(small)  # the cache is the same for all
    yield from proved([result.summary for result in comparison.results])
    if comparison.best_known:
        yield best_known(comparison)
    yield from _shared_notes(comparison.results)
    facts = [comparison.resident.summary] if comparison.resident else []
    shown = {each["policy"]: each for each in [*facts, *comparison.summaries()]}
    yield from footnotes((each["label"], each) for each in shown.values())
    yield from _remarks({run.scenario.policy: run for run in [*comparison.results, *comparison.best_known]}.values())


def _remarks(runs: Collection[Result]) -> Iterator[str]:
    """A line per note that runs have, with the policies that have it."""
    for note in dict.fromkeys(run.summary["note"] for run in runs if run.summary["note"]):
        policies = [run.summary["label"] for run in runs if run.summary["note"] == note]
        yield f"{', '.join(policies)}: {note}"


def proved(summaries: Sequence[Summary]) -> Iterator[str]:
    """The proof that real runs give the resident model's output: a line per count of requests and tokens."""
    policies: dict[str, list[str]] = {}
    for each in summaries:
        if each["equal_tokens"] is not None:
            what = f"{quantity(each['equal_requests'], 'request')}, {quantity(each['equal_tokens'], 'token')}"
            policies.setdefault(what, []).append(each["label"])
    for what, names in policies.items():
        of = f"{', '.join(names)}: " if len(policies) > 1 else ""
        yield f"{of}{what}: every token and logit equals the resident model"


def best_known(comparison: PolicyComparison) -> str:
    """The best known run, and the candidates that it was chosen from."""
    distances = [found for each in comparison.know_all if (found := _distance(each))]
    ahead = either(distances) if distances else ""
    winners = [
        f"perfect prefetch {found} layers ahead" if (found := _distance(run.scenario.policy)) else run.summary["label"]
        for run in comparison.best_known
    ]
    here = listed(winners) + ", which tie" * (len(winners) > 1)
    return (
        f"best known: the fastest of clairvoyant and perfect prefetch ({ahead} layers ahead, Belady's evictor), here "
        f"{here}; they know all future demands, and their predictions take no time; heuristics, not "
        "bounds"
    )


def _distance(policy: str) -> str | None:
    """The prefetch distance in the name of a policy, if it has one."""
    found = re.search(r"prefetch_distance=(\d+)", policy)
    return found[1] if found else None


def _shared_notes(results: Sequence[Result]) -> Iterator[str]:
    """Notes that hold for all runs of a comparison."""
    yield from filter(None, (room_for_all(results), mostly_fixed(results[0])))


def room_for_all(results: Sequence[Result]) -> str | None:
    """A note if the cache holds all experts, since there are first misses even so."""
    found = results[0].provenance
    holds_all = found["cache_experts"] == found["model"]["layers"] * found["model"]["experts"]
    if not holds_all or all(result.summary["miss_rate"] == 0 for result in results):
        return None
    return (
        "the cache has room for all experts, so no copy has to be repeated: the longer the run, the smaller the share "
        "of misses"
    )


def mostly_fixed(result: Result) -> str | None:
    """A note if the traced model's own sizes are so small that fixed costs exceed half of a decode step's work."""
    machine, summary = result.provenance["machine"], result.summary
    if not summary["simulated"] or result.scenario.sizes or machine["described"].startswith("a measured profile"):
        return None
    exchange_s, overhead_s, compute_s = (summary[f"decode_{part}_s"] for part in ("exchange", "overhead", "compute"))
    if compute_s is None or exchange_s + overhead_s <= compute_s:
        return None
    return (
        f"times are mostly fixed costs of starting operations, since {result.provenance['model']['name']} is so small; "
        "simulate it with the sizes of a published model"
    )
