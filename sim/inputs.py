"""What the names in a scenario stand for: trace, history, machine and sizes, read and checked before anything runs."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import FieldError, UserError
from common.hashing import sha256_of_json
from policies.registry import make_policy
from policies.types import Future, History, Int, ModelShape
from sim.hardware.machines import Devices, Machine, description, digest, machine_named, memory_bytes
from sim.scenario import Scenario
from traces.analysis.expert_counts import read_counts
from traces.format.reader import RecordedFuture, Requests, Trace, split
from traces.published_models import published


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What one run is given, by either driver.

    `facts` is what results say of it: trace, history and their digests.
    """

    model: ModelShape
    machine: Machine | Devices
    requests: History  # that run, in order
    history: History | None = None
    future: Future | None = None
    expert_counts: Int | None = None  # [L, J] to place by, in place of the history
    facts: Mapping[str, Any] = field(default_factory=dict)

    def provenance(self, scenario: Scenario) -> dict[str, Any]:
        """What the scenario's names stood for, as plain data for results."""
        return {
            **self.facts,
            "model": asdict(self.model),
            "expert_bytes": self.model.expert_bytes,
            "machine": {
                "name": self.machine.name,
                "gpus": self.machine.gpus,
                "described": description(self.machine),
                "memory_bytes": memory_bytes(self.machine),
                "digest": digest(self.machine),
            },
            "cache_experts": scenario.cache.slots(self.model),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """The requests of a scenario: those that run, and those that a policy may learn from."""

    trace: Trace
    requests: Requests
    history: Requests
    future: RecordedFuture
    facts: Mapping[str, Any]


def resolve(scenario: Scenario, *others: str) -> Inputs:
    """Read what a simulation of the scenario needs, under its policy and under `others` that run on the same inputs.

    Every mistake is a `UserError` that names file or field.
    """
    routing = routing_of(scenario, *others)
    traced = routing.trace.shape
    machine = machine_named(scenario.machine)
    counts = read_counts(scenario.counts, traced) if scenario.counts else None
    return Inputs(
        model=with_sizes_of(traced, scenario.sizes),
        machine=machine,
        requests=routing.requests,
        history=routing.history,
        future=routing.future,
        expert_counts=counts.tokens if counts else None,
        facts={**routing.facts, "counts_sha256": counts.sha256 if counts else None},
    )


def routing_of(scenario: Scenario, *others: str) -> Routing:
    """Open trace and history, divide the requests, and check that the policies find the columns that they need."""
    trace = Trace.open(scenario.trace)
    read, history = trace, None
    if scenario.history:
        history = history_of(scenario.history, trace)
        # Embeddings that only one of the two has can be compared with nothing.
        if history.meta.embedding != trace.meta.embedding:
            read, history = trace.without_embeddings(), history.without_embeddings()
    where = str(scenario.trace if read.meta.embedding == trace.meta.embedding else scenario.history)
    for policy in (scenario.policy, *others):
        check_columns(policy, embedding=read.meta.embedding, lookahead=read.meta.lookahead, where=where)
    train, test = train_test_split(trace.request_ids, scenario, where=str(trace.path))
    return Routing(
        trace=trace,
        requests=Requests(read, test),
        history=Requests(read, train) if history is None else Requests(history),
        future=RecordedFuture(read, test),
        facts={**facts_of(trace, history), "split_sha256": sha256_of_json({"run": test, "learnt_from": train})},
    )


def facts_of(trace: Trace, history: Trace | None = None) -> dict[str, Any]:
    """What results say of the routing."""

    def said(of: Trace) -> dict[str, Any]:
        return {"name": of.path.name, "kind": of.meta.kind, "model": of.shape.name, "digest": of.digest}

    return {"trace": said(trace), "history": said(history) if history else None, "counts_sha256": None}


def with_sizes_of(traced: ModelShape, name: str | None) -> ModelShape:
    """The traced model, with the sizes of a published one if it is named; the number of layers stays the traced one."""
    if name is None:
        return traced
    model = published(name)
    if (traced.experts, traced.top_k) != (model.experts, model.top_k):
        raise FieldError(
            "sizes",
            f"{model.name} has top-{model.top_k} of {model.experts} experts, "
            f"the trace of {traced.name} has top-{traced.top_k} of {traced.experts}",
        )
    if traced.layers == model.layers:
        return model
    return replace(model, name=f"{model.name} layers × {traced.layers}", layers=traced.layers)


def history_of(path: Path, trace: Trace) -> Trace:
    """The trace to learn from; layers, experts and top-k must be those of `trace`, and the size of embeddings."""
    history = Trace.open(path)
    names = ["layers", "experts", "top_k"]
    for name in [*names, "hidden"] if history.meta.embedding and trace.meta.embedding else names:
        found, wanted = getattr(history.shape, name), getattr(trace.shape, name)
        if found != wanted:
            raise FieldError("history", f"{path}: shape.{name} must be {wanted} as in {trace.path}, value {found}")
    return history


def check_columns(policy: str, *, embedding: bool, lookahead: Collection[int], where: str) -> None:
    """A `UserError` that names the column which the policy needs and `where` does not have."""
    requires = make_policy(policy).requires
    if "embedding" in requires and not embedding:
        raise UserError(f"policy {policy} needs embeddings.parquet, which {where} does not have")
    if "lookahead" in requires and 1 not in lookahead:
        raise UserError(f"policy {policy} needs a column lookahead_1, which {where} does not have")


def train_test_split(requests: Sequence[int], scenario: Scenario, *, where: str) -> tuple[list[int], list[int]]:
    """The requests to learn from, drawn by the scenario's seed, and those of the others that run."""
    train, test = split(requests, scenario.train_split, np.random.default_rng(scenario.seed))
    if not test:
        problem = f"none of the {len(requests)} requests of {where} is left to run, value {scenario.train_split}"
        raise FieldError("train_split", problem)
    return train, test[: scenario.requests]
