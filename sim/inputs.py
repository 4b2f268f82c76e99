"""The inputs that a scenario names: trace, history, machine and sizes, read and checked before anything runs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import FieldError, UserError
from common.hashing import sha256_of_json
from policies.cache.placement import check_replicas, split_slots
from policies.registry import make_policy
from policies.types import Future, History, Int, ModelShape
from sim.artefacts import NOTHING_KEPT, Artefacts
from sim.decoded_trace import with_decoded
from sim.hardware.machine import Machine
from sim.hardware.machine_files import machine_named
from sim.hardware.memory import GpuMemory
from sim.scenario import CacheSize, Scenario
from sim.trace_naturalness import naturalness
from traces.analysis.expert_counts import read_counts
from traces.analysis.naturalness import warning
from traces.format.reader import RecordedFuture, Requests, Trace, split
from traces.published_models import published


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The inputs of one run, for either driver.

    `facts` describe trace and history, with their digests, for results.
    """

    model: ModelShape
    machine: Machine
    requests: History  # the requests that run, in order
    history: History | None = None
    future: Future | None = None
    expert_counts: Int | None = None  # [L, J] for placement, in place of the history
    memory: GpuMemory | None = None  # None if the machine does not state its memory
    arrivals: bool = False  # the trace says when requests arrive
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def routing_identity(self) -> dict[str, str | None]:
        """The digests of trace, history and split, which decide the requests that run and those to learn from."""
        history = self.facts["history"]
        return {
            "trace": self.facts["trace"]["digest"],
            "history": history["digest"] if history else None,
            "split": self.facts["split_sha256"],
        }

    @property
    def tokens(self) -> int:
        """The number of tokens in the forward passes of all requests that run."""
        requests = self.requests
        if isinstance(requests, Requests):  # counts them without reading their rows
            return sum(requests.trace.rows_of(request) for request in requests.ids)
        return sum(len(recorded.token) for recorded in requests)

    def provenance(self, scenario: Scenario) -> dict[str, Any]:
        """The inputs that the scenario names, as plain data for results."""
        by_layer = self.model.expert_bytes_by_layer
        return {
            **self.facts,
            "model": asdict(self.model) | {"expert_bytes_by_layer": list(by_layer) if by_layer else None},
            "expert_bytes": self.model.expert_bytes,
            "machine": {
                "name": self.machine.name,
                "gpus": self.machine.gpus,
                "links": self.machine.links,
                "demand_loading": self.machine.demand_loading,
                "described": self.machine.describe(),
                "memory_bytes": self.memory.total_bytes if self.memory else None,
                "digest": self.machine.digest,
                "origins": {part: list(found) for part, found in self.machine.origins.items()},
            },
            "cache_experts": scenario.cache.slots(self.model, self.memory),
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
    """Read the inputs of a scenario, for its policy and for `others` that run on the same inputs.

    Raises a `UserError` that names the file or field for every mistake.
    """
    return Resolver().resolve(scenario, *others)


def routing_of(scenario: Scenario, *others: str) -> Routing:
    """Open trace and history, split the requests, and check that the policies have the columns that they need."""
    return Resolver().routing_of(scenario, *others)


class Resolver:
    """Resolves many scenarios; common inputs are read once, and decoded traces are kept in `artefacts`."""

    def __init__(self, artefacts: Artefacts = NOTHING_KEPT) -> None:
        self._artefacts = artefacts
        self._known: dict[tuple[Any, ...], Any] = {}

    def resolve(self, scenario: Scenario, *others: str) -> Inputs:
        """As the function `resolve`."""
        routing = self.routing_of(scenario, *others)
        traced = routing.trace.shape
        machine = self._once(("machine", scenario.machine), lambda: machine_named(scenario.machine))
        counts = None
        if scenario.counts:
            path = scenario.counts
            counts = self._once(("counts", path, traced), lambda: read_counts(path, traced))
        model = with_sizes_of(traced, scenario.sizes)
        memory = None
        if machine.gpu_memory_bytes is not None:
            longest = self._once(("longest", *split_fields(scenario)), lambda: _longest(routing.requests))
            together = min(scenario.batch_size, len(routing.requests))
            memory = GpuMemory.of(model, machine.gpus * machine.gpu_memory_bytes, positions=longest * together)
        check_size(scenario.cache, model, machine, memory)  # even for policies that ignore it
        check_replicas(scenario.replicas, machine.gpus)
        if memory is not None:
            check_memory(memory, scenario, model, machine)
        infos = routing.trace.infos
        return Inputs(
            model=model,
            machine=machine,
            requests=routing.requests,
            history=routing.history,
            future=routing.future,
            expert_counts=counts.tokens if counts else None,
            memory=memory,
            arrivals=any(infos[request].arrival_s is not None for request in routing.requests.ids),
            facts={**routing.facts, "counts_sha256": counts.sha256 if counts else None},
        )

    def routing_of(self, scenario: Scenario, *others: str) -> Routing:
        """As the function `routing_of`."""
        routing: Routing = self._once(("routing", *split_fields(scenario)), lambda: self._routing(scenario))
        read, traced = routing.requests.trace, routing.trace
        where = str(scenario.trace if read.meta.embedding == traced.meta.embedding else scenario.history)
        for policy in (scenario.policy, *others):
            check_columns(policy, embedding=read.meta.embedding, lookahead=read.meta.lookahead, where=where)
        return routing

    def _routing(self, scenario: Scenario) -> Routing:
        trace = self._trace(scenario.trace)
        read, history = trace, None
        if scenario.history:
            history = history_of(self._trace(scenario.history), trace)
            # Embeddings are useless if only one of the two traces has them.
            if history.meta.embedding != trace.meta.embedding:
                read, history = trace.without_embeddings(), history.without_embeddings()
        train, test = train_test_split(trace.request_ids, scenario, where=str(trace.path))
        return Routing(
            trace=trace,
            requests=Requests(read, test),
            history=Requests(read, train) if history is None else Requests(history),
            future=RecordedFuture(read, test),
            facts={
                **facts_of(trace, history, self._naturalness),
                "split_sha256": sha256_of_json({"run": test, "learnt_from": train}),
            },
        )

    def _trace(self, path: Path) -> Trace:
        trace: Trace = self._once(("trace", path), lambda: with_decoded(Trace.open(path), self._artefacts))
        return trace

    def _naturalness(self, trace: Trace) -> dict[str, Any]:
        found: dict[str, Any] = self._once(("natural", trace.digest), lambda: naturalness(trace, self._artefacts))
        return found

    def _once(self, key: tuple[Any, ...], read: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = read()
        return self._known[key]


def split_fields(scenario: Scenario) -> tuple[Any, ...]:
    """The fields that decide which requests run and which a policy may learn from."""
    return scenario.trace, scenario.history, scenario.train_split, scenario.requests, scenario.seed


def _longest(requests: Requests) -> int:
    """The number of positions of the longest request; reads one small column of the trace."""
    return max(requests.trace.positions(request) for request in requests.ids)


def facts_of(
    trace: Trace, history: Trace | None = None, measure: Callable[[Trace], dict[str, Any]] = naturalness
) -> dict[str, Any]:
    """Facts about trace and history for results; `measure` measures how natural a trace is."""

    def facts(of: Trace) -> dict[str, Any]:
        found = measure(of)
        return {
            "name": of.path.name,
            "kind": of.meta.kind,
            "model": of.shape.name,
            "digest": of.digest,
            "naturalness": found,
            "warning": warning(found, of.meta.generation),
        }

    return {"trace": facts(trace), "history": facts(history) if history else None, "counts_sha256": None}


def with_sizes_of(traced: ModelShape, name: str | None) -> ModelShape:
    """The traced model with the sizes of the named published model, but with the traced number of layers.

    Raises a `FieldError` if experts per layer or top-k differ. Without a name, returns the traced model.
    """
    if name is None:
        return traced
    model = published(name)
    if (traced.experts, traced.top_k) != (model.experts, model.top_k):
        raise FieldError(
            "sizes",
            f"{model.name} has top-{model.top_k} of {model.experts} experts, but "
            f"the trace of {traced.name} has top-{traced.top_k} of {traced.experts}",
        )
    if traced.layers == model.layers:
        return model
    return replace(model, name=f"{traced.layers} layers of {model.name}", layers=traced.layers)


def check_size(size: CacheSize, model: ModelShape, machine: Machine, memory: GpuMemory | None) -> None:
    """Raise a `FieldError` on the cache if its experts cannot be divided among the GPUs."""
    slots = size.slots(model, memory)
    try:
        split_slots(model, slots, machine.gpus)
    except UserError as error:
        raise FieldError(f"cache.{size.field}", f"{getattr(size, size.field)} gives {error}") from error


def check_memory(memory: GpuMemory, scenario: Scenario, model: ModelShape, machine: Machine) -> None:
    """Raise a `FieldError` on the cache if its experts do not fit on the GPUs beside dense weights and KV cache.

    Also if it has more gigabytes than the GPUs, although it never takes more than all experts.
    """
    size, experts = scenario.cache, scenario.cache.slots(model, memory)
    if isinstance(size.gb, float | int) and size.gb * 1e9 > memory.total_bytes:
        has = f"{memory.total_bytes / 1e9:.4g} GB"
        raise FieldError("cache.gb", f"{size.gb} is more than the {has} of {machine.describe()}")
    if memory.fits(experts * model.expert_bytes):
        return
    wanted, of, dense, cached = (
        f"{each / 1e9:.4g} GB"
        for each in (experts * model.expert_bytes, memory.total_bytes, memory.dense_bytes, memory.kv_cache_bytes)
    )
    raise FieldError(
        f"cache.{size.field}",
        f"{getattr(size, size.field)} is too much: {experts} experts take {wanted}, but "
        f"{machine.describe()} has {of}, of which dense weights take {dense} and "
        f"the KV cache {cached}, so at most {memory.fitting(model)} experts fit",
    )


def history_of(history: Trace, trace: Trace) -> Trace:
    """The trace to learn from. Raises a `FieldError` unless its layers, experts, top-k and embedding size match."""
    names = ["layers", "experts", "top_k"]
    for name in [*names, "hidden"] if history.meta.embedding and trace.meta.embedding else names:
        found, wanted = getattr(history.shape, name), getattr(trace.shape, name)
        if found != wanted:
            raise FieldError(
                "history", f"{history.path}: shape.{name} must be {wanted} as in {trace.path}, not {found}"
            )
    return history


def check_columns(policy: str, *, embedding: bool, lookahead: Collection[int], where: str) -> None:
    """Raise a `UserError` that names a column which the policy needs and `where` does not have."""
    requires = make_policy(policy).requires
    if "embedding" in requires and not embedding:
        raise UserError(f"policy {policy} needs embeddings.parquet, which {where} does not have")
    there = {f"lookahead_{distance}" for distance in lookahead}
    for column in sorted(requires - there - {"embedding", "future"}):
        raise UserError(f"policy {policy} needs a column {column}, which {where} does not have")


def train_test_split(requests: Sequence[int], scenario: Scenario, *, where: str) -> tuple[list[int], list[int]]:
    """The requests to learn from, drawn with the scenario's seed, and the other requests that run."""
    train, test = split(requests, scenario.train_split, np.random.default_rng(scenario.seed))
    if not test:
        few, all_of_it = ("1 request is", "it") if len(requests) == 1 else (f"{len(requests)} requests are", "all")
        raise FieldError(
            "train_split",
            f"{few} not enough: {scenario.train_split} takes {all_of_it} as history and leaves none of {where} to run; "
            "give more, or `train_split` 0",
        )
    return train, test[: scenario.requests]
