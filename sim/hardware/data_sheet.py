"""A machine as its data sheets describe it, and what the parts of an iteration cost on it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, TypeAlias

from annotated_types import Ge, Gt

from common.errors import FieldError
from common.settings import OrInfinite, check, to_data
from common.toml_files import toml_text
from policies.types import ModelShape, Search
from sim.hardware.costs import comparing_s
from sim.hardware.effects import DemandLoading, Effects
from sim.hardware.memory import dense_weights, kv_numbers

Rate: TypeAlias = Annotated[float, Gt(0), OrInfinite()]  # per second; infinite if it takes no time
Seconds: TypeAlias = Annotated[float, Ge(0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Peak rates of one GPU."""

    name: str
    flops_per_s: Rate
    """16-bit matrix products with 32-bit sums."""
    memory_bytes_per_s: Rate
    memory_bytes: Annotated[float, Gt(0)]
    overhead_s: Seconds
    """What starting one operation (attention, one expert, the head) costs."""

    def __post_init__(self) -> None:
        check(self)
        _check_name(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction of a connection."""

    bytes_per_s: Rate
    latency_s: Seconds

    def __post_init__(self) -> None:
        check(self)

    def copy_s(self, size_bytes: float) -> float:
        """Seconds to move so many bytes in one piece."""
        return self.latency_s + size_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRates:
    """How fast the processor that predicts compares a query with a store."""

    overhead_s: Seconds
    """Per search."""
    bytes_per_s: Rate
    """Reading the store."""
    flops_per_s: Rate

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSheetMachine:
    """GPUs of one kind, each with a link to host memory and one to its peers, and the processor that searches.

    A `Machine` whose times are computed, not measured.
    """

    name: str
    gpus: Annotated[int, Ge(1)]
    gpu: Gpu
    host_link: Link
    peer_link: Link
    search: SearchRates
    demand_loading: DemandLoading = "parallel"
    """Whether demanded experts come over all links at once, or one after the other."""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Where each figure is from, by its dotted key (`gpu.memory_bytes`)."""

    def __post_init__(self) -> None:
        check(self)
        _check_name(self.name)

    @property
    def links(self) -> int:
        """One for each GPU."""
        return self.gpus

    @property
    def gpu_memory_bytes(self) -> float:
        """As the data sheet has it."""
        return self.gpu.memory_bytes

    @property
    def digest(self) -> str:
        """SHA-256 of its names and figures; where they are from does not count."""
        data = to_data(self)
        del data["sources"]
        return hashlib.sha256(toml_text(data).encode()).hexdigest()

    def cost(self, model: ModelShape) -> "CostModel":
        """A roofline of any model."""
        return CostModel(model, self)

    def describe(self) -> str:
        """`rtx3090x6 (6 × RTX 3090)`."""
        return f"{self.name} ({self.gpus} × {self.gpu.name})"


class CostModel:
    """What the parts of an iteration of `model` cost on `machine`: a roofline.

    An operation takes the longer of its arithmetic at the peak rate and its memory traffic at the peak bandwidth, plus
    a fixed overhead. Weights and activations are in the model's own precision.
    """

    def __init__(self, model: ModelShape, machine: "DataSheetMachine") -> None:
        self.model = model
        self.machine = machine
        self._attention_width = model.attention_heads * model.head_dim
        self._kv_width = kv_numbers(model)
        self._dense_weights = dense_weights(model)
        self.launch_s = machine.gpu.overhead_s
        self.driving_s = 0.0
        self.effects = Effects()
        self.expert_s = cache(self._expert_s)

    def dense_s(self, tokens: int, context: int, attended: int) -> float:
        """What every layer does on one GPU before its experts: attention, router and shared experts.

        `context` is the number of cached positions of all requests together, `attended` the number of (token, position)
        pairs that attention scores.
        """
        flops = 2.0 * tokens * self._dense_weights + 4.0 * attended * self._attention_width
        numbers = self._dense_weights + context * self._kv_width + 2 * tokens * self.model.hidden
        return self._roofline(flops, numbers)

    def _expert_s(self, tokens: int) -> float:
        """One routed expert on so many tokens; called as `expert_s`."""
        weights = 3 * self.model.hidden * self.model.expert_ffn
        return self._roofline(2.0 * tokens * weights, weights + 2 * tokens * self.model.hidden)

    def exchange_s(self, tokens: int) -> float:
        """Activations to the experts' GPUs and back; nothing on a single GPU."""
        gpus = self.machine.gpus
        if gpus == 1:
            return 0.0
        away = tokens * self.model.hidden * self.model.weight_bytes * (gpus - 1) / gpus
        return 2 * self.machine.peer_link.copy_s(away)

    def head_s(self, rows: int) -> float:
        """The output projection for the last token of each request."""
        weights = self.model.hidden * self.model.vocab
        return self._roofline(2.0 * rows * weights, weights + rows * self.model.vocab)

    def copy_s(self, size_bytes: int) -> float:
        """A chunk of an expert from host memory to its GPU."""
        return self.machine.host_link.copy_s(size_bytes)

    def copy_latency_s(self, size_bytes: int) -> float:
        """The latency of the link."""
        return self.machine.host_link.latency_s

    def least_copy_s(self, size_bytes: int) -> float:
        """In one piece: each copy has its latency."""
        return self.copy_s(size_bytes)

    def search_s(self, search: Search) -> float:
        """A search, or a store update, which compares with every entry likewise."""
        rates = self.machine.search
        return rates.overhead_s + comparing_s(search, rates.bytes_per_s, rates.flops_per_s)

    def _roofline(self, flops: float, numbers: float) -> float:
        gpu = self.machine.gpu
        return gpu.overhead_s + max(flops / gpu.flops_per_s, numbers * self.model.weight_bytes / gpu.memory_bytes_per_s)


def _check_name(name: str) -> None:
    if not name or not name.isprintable():
        raise FieldError("name", f"{name!r} is not a name")
