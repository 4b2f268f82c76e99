"""Runs a comparison: a sweep for each trace, through the result store, so that nothing is computed twice."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.errors import UserError
from sim.experiment import Experiment
from sim.hardware.machine_files import machine_named
from sim.inputs import train_test_split
from sim.ranking.compared import Compared, ComparedMachine, ComparedSystem, ComparedTrace, Need
from sim.ranking.comparison_table import FIGURES, ComparisonTable, milliseconds
from sim.scenario import Scenario
from sim.store.result_store import ResultStore
from sim.sweeps.sweep_columns import plain_rows
from sim.sweeps.sweep_run import run_sweep
from sim.sweeps.workers import Workers
from sim.trace_naturalness import FIGURES as NATURALNESS
from traces.format import provenance
from traces.format.reader import Trace

LACKS: Mapping[Need, str] = {
    "history": "one request, so no history to learn from",
    "embedding": "no embeddings, so no semantic search",
    "lookahead_1": "the trace lacks the guesses of the next layer's router",
    "lookahead_3": "the trace lacks the guesses of the router three layers ahead",
}

Row = dict[str, Any]


def run_comparison(compared: Compared, routing: Path, *, store: Path, workers: Workers) -> ComparisonTable:
    """Run what the store does not have yet, one trace after another; traces missing from the folder are left out.

    Raises a `UserError` if the store cannot be used or a trace cannot be read.
    """
    rows: list[Row] = []
    traces = {}
    paths = {each: routing / f"{each.name}.trace" for each in compared.traces}
    there = {each: path for each, path in paths.items() if path.exists()}
    for number, (each, path) in enumerate(there.items(), 1):
        found = _TraceRuns(compared, each, Trace.open(path), store)
        found.run(workers, f"trace {number} of {len(there)}")
        rows += found.rows()
        traces[each.title] = found.facts()
    machines = {each.name: _described(each) for each in compared.machines}
    inputs = {"simulated": True, "traces": traces, "machines": machines}
    return ComparisonTable(rows=rows, inputs=inputs)


class _TraceRuns:
    """The runs of a comparison on one trace."""

    def __init__(self, compared: Compared, of: ComparedTrace, trace: Trace, store: Path) -> None:
        self._compared, self._of, self._trace, self._store = compared, of, trace, store
        self._scenario = Scenario(
            trace.path, sizes=of.sizes, requests=of.requests, train_split=of.train_split, detail="requests"
        )
        self._history, self._tested = train_test_split(trace.request_ids, self._scenario, where=str(trace.path))
        self._found: dict[tuple[Any, ...], Row] = {}

    def run(self, workers: Workers, name: str) -> None:
        systems = [each.policy for each in self._compared.systems if not self._lacking(each)]
        experiment = Experiment(
            scenario=self._scenario,
            grid={
                "policy": systems,
                "cache.gb": self._compared.cache_gb,
                "machine": [each.machine for each in self._compared.machines],
            },
        )
        frame = run_sweep(experiment, store=self._store, references=(), workers=workers, name=name).frame
        for row in plain_rows(frame):
            self._found[row["policy"], row["cache.gb"], row["machine"]] = row

    def rows(self) -> Iterator[Row]:
        opened = ResultStore.open(self._store)
        for gb in self._compared.cache_gb:
            for machine in self._compared.machines:
                for system in self._compared.systems:
                    named = {"trace": self._of.title, "cache_gb": gb, "machine": machine.name, "system": system.name}
                    if reason := self._lacking(system):
                        figures: Row = {"status": "lacking", "reason": reason}
                    else:
                        figures = _figures(self._found[system.policy, gb, machine.machine], opened)
                    yield {**named, "policy": system.policy, **figures}

    def facts(self) -> Row:
        """Facts about the trace for readers; without model sizes if no run is done."""
        done: Row = next((row for row in self._found.values() if row["status"] == "done"), {})
        meta = self._trace.meta
        return {
            "routing": provenance.routing(meta.kind, meta.model, done.get("trace_warning")),
            "warning": done.get("trace_warning"),
            "decoded_tokens": provenance.tokens(meta.generation),
            "prefill": meta.prefill,
            "sizes": done.get("model"),
            "experts": done.get("total_experts"),
            "expert_bytes": done.get("expert_bytes"),
            "requests": len(self._tested),
            "history_requests": len(self._history),
            "output_tokens": done.get("output_tokens"),
            "seed": self._scenario.seed,
            "batch_size": self._scenario.batch_size,
            "source": self._of.source,
            "prompts": meta.prompts,
            "notes": meta.notes,
            "digest": self._trace.digest,
            **{name: done.get(f"trace_{name}") for name in NATURALNESS},
        }

    def _lacking(self, system: ComparedSystem) -> str | None:
        """What the trace lacks for a system, as a sentence; None if nothing."""
        meta = self._trace.meta
        there = {f"lookahead_{distance}" for distance in meta.lookahead}
        there |= {"embedding"} if meta.embedding else set()
        there |= {"history"} if self._history else set()
        return next((LACKS[need] for need in system.needs if need not in there), None)


def _figures(row: Row, store: ResultStore) -> Row:
    """The numbers of a run, or the reason why it has none."""
    outcome: Row = {"status": row["status"], "reason": row["reason"]}
    if row["status"] != "done":
        return outcome
    requests = store.requests(row["key"])
    if requests is None:
        return {"status": "failed", "reason": "the store has lost the run; run the same command again"}
    times = {f"request_{metric}_ms": milliseconds(requests[f"{metric}_s"]) for metric in ("tpot", "ttft")}
    return outcome | {name: row[name] for name in FIGURES} | times


def _described(machine: ComparedMachine) -> Row:
    facts: Row = {"machine": machine.machine, "meaning": machine.meaning, "described": None, "digest": None}
    with suppress(UserError):  # its runs say why
        found = machine_named(machine.machine)
        facts |= {"described": found.describe(), "digest": found.digest}
    return facts
