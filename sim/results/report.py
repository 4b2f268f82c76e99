"""The text report of a comparison: heading, tables and notes, in lines of 100 characters."""

from collections.abc import Iterator, Sequence

from common.folding import folded
from common.tables import number, size
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
    below = (folded(note, indent="  ") for note in (*proved(summaries), *marks))
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
        f"{slots} of {total} experts ({share}), {room}; all experts take {size(total * expert_bytes)}"
    )


def notes(comparison: PolicyComparison) -> Iterator[str]:
    """Warnings about runs: a paragraph for each label and note, with the policies that it applies to."""
    small = filter(None, (cache_too_small(result.summary) for result in comparison.results))
    yield from dict.fromkeys(small)  # the cache is the same for all
    yield from proved([result.summary for result in comparison.results])
    if comparison.best_known:
        yield best_known(comparison)
    resident = [comparison.resident] if comparison.resident else []
    runs = {run.scenario.policy: run for run in [*comparison.results, *comparison.best_known]}.values()
    facts = {run.scenario.policy: run.summary for run in [*runs, *resident]}
    facts |= {each["policy"]: each for each in comparison.summaries()}
    yield from footnotes((each["label"], each) for each in facts.values())
    for note in dict.fromkeys(run.summary["note"] for run in runs if run.summary["note"]):
        policies = [run.summary["label"] for run in runs if run.summary["note"] == note]
        yield f"{', '.join(policies)}: {note}"


def proved(summaries: Sequence[Summary]) -> Iterator[str]:
    """The proof that real runs give the resident model's output: a line per count of requests and tokens."""
    policies: dict[str, list[str]] = {}
    for each in summaries:
        if each["equal_tokens"] is not None:
            what = f"{each['equal_requests']} requests, {each['equal_tokens']} tokens"
            policies.setdefault(what, []).append(each["label"])
    for what, names in policies.items():
        of = f"{', '.join(names)}: " if len(policies) > 1 else ""
        yield f"{of}{what}: every token and logit equals the resident model"


def best_known(comparison: PolicyComparison) -> str:
    """The best known run, and the candidates that it was chosen from."""
    names = " = ".join(run.summary["label"] for run in comparison.best_known)
    return (
        f"best known: {names}, with the lowest mean TPOT of {', '.join(comparison.know_all)}; these know all future "
        "demands, but are heuristics, not bounds"
    )
