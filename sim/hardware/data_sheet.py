"""A machine described by data sheets, and the costs of the parts of an iteration on it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge

from common.errors import FieldError
from common.settings import check, to_data
from common.toml_files import toml_text
from policies.types import ModelShape, Search
from sim.hardware.costs import comparing_s
from sim.hardware.curve import Curve, share_at
from sim.hardware.effects import DemandLoading
from sim.hardware.origins import Origins, origins_of
from sim.hardware.parts import Contention, Efficiency, Framework, Gpu, Host, Link, SearchRates, check_name, effects_of
from sim.hardware.work import Work, dense_work, expert_work, head_work

Copies: TypeAlias = Literal["pinned", "pageable"]

SECTIONS = {
    "gpu": Gpu,
    "host_link": Link,
    "pageable_link": Link,
    "peer_link": Link,
    "search": SearchRates,
    "host": Host,
    "framework": Framework,
    "efficiency": Efficiency,
    "contention": Contention,
}
"""The tables of a data sheet, each with the figures of one part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSheetMachine:
    """A `Machine` whose times are computed from data-sheet figures.

    It has GPUs of one kind, each with a link to host memory and one to its peers, and a host with its processor.
    """

    name: str
    gpus: Annotated[int, Ge(1)]
    gpu: Gpu
    host_link: Link
    """Copies from pinned host memory."""
    peer_link: Link
    search: SearchRates
    pageable_link: Link | None = None
    """Copies from pageable host memory."""
    copies: Copies = "pinned"
    """The kind of host memory that experts are copied from."""
    host: Host = field(default_factory=Host)
    framework: Framework = field(default_factory=Framework)
    efficiency: Efficiency = field(default_factory=Efficiency)
    contention: Contention = field(default_factory=Contention)
    demand_loading: DemandLoading = "parallel"
    """Whether demanded experts move over all links at once, or one after another."""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The source of each figure, by its dotted key (`gpu.memory_bytes`)."""

    def __post_init__(self) -> None:
        check(self)
        check_name(self.name)
        if self.copies == "pageable" and self.pageable_link is None:
            raise FieldError("copies", "pageable needs a table pageable_link")

    @property
    def links(self) -> int:
        return self.gpus

    @property
    def copies_link(self) -> Link:
        """The link that carries experts, which depends on the kind of host memory."""
        return self.pageable_link if self.copies == "pageable" and self.pageable_link else self.host_link

    @property
    def gpu_memory_bytes(self) -> float:
        return self.gpu.memory_bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the names and figures, without their sources."""
        data = to_data(self)
        del data["sources"]
        return hashlib.sha256(toml_text(data).encode()).hexdigest()

    @property
    def origins(self) -> Origins:
        figures = {
            "computing": ("gpu.flops_per_s", "gpu.memory_bytes_per_s"),
            "efficiency": ("efficiency",) if self.efficiency != Efficiency() else (),
            "starting operations": ("gpu.overhead_s",) if self.gpu.overhead_s else (),
            "copies": ("pageable_link" if self.copies == "pageable" else "host_link",),
            "host memory": ("host",) if self.host != Host() else (),
            "exchange": ("peer_link",),
            "CPU time": ("framework",) if self.framework != Framework() else (),
            "contention": ("contention",) if self.contention != Contention() else (),
            "searches": ("search",),
        }
        if self.gpus == 1:
            del figures["exchange"]
        return {part: origins_of(self._sources(*keys)) if keys else () for part, keys in figures.items()}

    def _sources(self, *keys: str) -> list[str]:
        """The sources of the figures with these keys; the key of a table stands for all its figures."""
        return [source for key, source in self.sources.items() if key in keys or key.split(".")[0] in keys]

    def cost(self, model: ModelShape) -> "CostModel":
        return CostModel(model, self)

    def describe(self) -> str:
        """`rtx3090x6 (6 × RTX 3090)`, with the effects that are on."""
        return f"{self.name} ({', '.join([f'{self.gpus} × {self.gpu.name}', *self.effects_on()])})"

    def effects_on(self) -> list[str]:
        """The effects that are on, in words."""
        host, framework, link = self.host.memory_bytes_per_s, self.framework, self.copies_link
        best = max((share for _, share in link.efficiency), default=1.0)
        switches = {
            f"CPU {framework.layer_s * 1e3:.4g} ms a layer": framework.layer_s > 0,
            f"CPU {framework.expert_s * 1e3:.4g} ms an expert": framework.expert_s > 0,
            f"host memory {host / 1e9:.4g} GB/s": self.gpus * link.bytes_per_s * best > host,
            "pageable copies": self.copies == "pageable",
            "rates below peak": bool(link.efficiency) or self.efficiency != Efficiency(),
            "contention on GPUs": self.contention != Contention(),
            "serial demand loading": self.demand_loading == "serial",
        }
        return [words for words, on in switches.items() if on]


class CostModel:
    """A roofline model of the parts of an iteration of `model` on `machine`.

    An operation takes a fixed overhead plus the longer of its arithmetic and its memory traffic. Each runs at its peak
    rate times the efficiency at the operation's number of tokens. Weights and activations have the model's precision.
    """

    def __init__(self, model: ModelShape, machine: DataSheetMachine) -> None:
        self.model = model
        self.machine = machine
        self._link = machine.copies_link
        self.launch_s = machine.gpu.overhead_s
        self.driving_s = 0.0
        self.effects = effects_of(machine.host, machine.framework, machine.contention)
        self.expert_s = cache(self._expert_s)

    def dense_s(self, tokens: int, context: int, attended: int) -> float:
        reached = self.machine.efficiency
        work = dense_work(self.model, tokens, context, attended)
        return self._roofline(work, tokens, reached.dense_flops, reached.dense_memory)

    def _expert_s(self, tokens: int) -> float:
        """Called as `expert_s`, which caches it."""
        reached = self.machine.efficiency
        return self._roofline(expert_work(self.model, tokens), tokens, reached.expert_flops, reached.expert_memory)

    def exchange_s(self, tokens: int) -> float:
        """Sending activations to the experts' GPUs and back; 0 on a single GPU."""
        gpus = self.machine.gpus
        if gpus == 1:
            return 0.0
        away = tokens * self.model.hidden * self.model.weight_bytes * (gpus - 1) / gpus
        return 2 * self.machine.peer_link.copy_s(away)

    def head_s(self, rows: int) -> float:
        reached = self.machine.efficiency
        return self._roofline(head_work(self.model, rows), rows, reached.head_flops, reached.head_memory)

    def copy_s(self, size_bytes: int) -> float:
        return self._link.copy_s(size_bytes)

    def copy_latency_s(self, size_bytes: int) -> float:
        return self._link.latency_s

    def least_copy_s(self, size_bytes: int) -> float:
        """One latency, and all bytes at the best rate of any size up to this one."""
        return self._link.least_copy_s(size_bytes)

    def search_s(self, search: Search) -> float:
        """A search, or a store update; both compare with every entry."""
        rates = self.machine.search
        return rates.overhead_s + comparing_s(search, rates.bytes_per_s, rates.flops_per_s)

    def _roofline(self, work: Work, tokens: int, of_flops: Curve, of_memory: Curve) -> float:
        gpu = self.machine.gpu
        return gpu.overhead_s + max(
            work.flops / (gpu.flops_per_s * share_at(of_flops, tokens)),
            work.numbers * self.model.weight_bytes / (gpu.memory_bytes_per_s * share_at(of_memory, tokens)),
        )
