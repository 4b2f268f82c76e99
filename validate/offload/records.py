"""The slow storage: a memory-mapped file with one contiguous record per expert."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.files import replacing
from traces.capture.model_structure import MoeBlock

ALIGNMENT = 64  # bytes, as for torch's own tensors: the bits of a matrix product may depend on it

_INTERFACE_ATTRIBUTES = ("is_transposed", "has_bias", "has_gate", "_apply_gate")
_SHARED = "post_expert_norm."  # one norm for all experts of a layer; it stays with the model


@dataclass(frozen=True, slots=True)
class Part:
    """Where a parameter of an expert lies in its record."""

    name: str
    start: int  # bytes
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """The size of the parameter."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Layout:
    """The content of a record: the parameters of one expert, each aligned, biases included; the same in all layers."""

    layers: int
    experts: int
    parts: tuple[Part, ...]

    @property
    def record_bytes(self) -> int:
        """Size of a record, rounded up so that the next one is aligned too."""
        return _aligned(max(part.start + part.bytes for part in self.parts))

    def views(self, record: Tensor) -> dict[str, Tensor]:
        """The parameters in a record, uint8 `[record_bytes]`, by name and without a copy."""
        return {
            part.name: record[part.start : part.start + part.bytes].view(part.dtype).view(part.shape)
            for part in self.parts
        }


@dataclass(frozen=True, slots=True)
class Records:
    """An opened record file: `bytes` is uint8 `[L·J, record_bytes]`, a private map; record `layer * J + expert`."""

    layout: Layout
    bytes: Tensor

    def views(self, number: int) -> dict[str, Tensor]:
        """The parameters of an expert, read from the slow storage when they are used."""
        return self.layout.views(self.bytes[number])


def layout_of(blocks: Sequence[MoeBlock]) -> Layout:
    """The layout of the experts of a model's blocks.

    A `UserError` if their class does not dispatch through Transformers' experts interface, if a parameter is not
    `[J, …]`, or if layers differ.
    """
    layouts = [_layout_of(block, len(blocks)) for block in blocks]
    for block, layout in zip(blocks, layouts, strict=True):
        if layout != layouts[0]:
            what = "have different parameters from those of"
            raise UserError(f"the experts of block {block.name} {what} {blocks[0].name}, so records would differ")
    return layouts[0]


def write_records(path: Path, blocks: Sequence[MoeBlock]) -> None:
    """Write the experts of a loaded model to `path`, completely or not at all.

    Raises the errors of `layout_of`, and a `UserError` if the file cannot be written.
    """
    layout = layout_of(blocks)
    record = torch.zeros(layout.record_bytes, dtype=torch.uint8)
    views = layout.views(record)
    with replacing(path, "the experts") as unfinished, unfinished.open("wb") as file:
        for block in blocks:
            parameters = [(view, block.experts.get_parameter(name)) for name, view in views.items()]
            for expert in range(block.count):
                for view, parameter in parameters:
                    view.copy_(parameter.detach()[expert])
                file.write(record.numpy().data)


def open_records(path: Path, layout: Layout) -> Records:
    """Map a record file into memory; one that is missing or has another size is a `UserError`."""
    count = layout.layers * layout.experts
    size = count * layout.record_bytes
    try:
        found = path.stat().st_size
        if found != size:
            raise UserError(f"{path}: it has {found} bytes; {count} records of this model need {size}")
        mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise UserError(f"{path}: the experts cannot be read: {why}") from error
    return Records(layout, mapped.view(count, layout.record_bytes))


def _layout_of(block: MoeBlock, layers: int) -> Layout:
    experts = block.experts
    of_class = f"the experts of block {block.name}, {type(experts).__name__},"
    missing = [name for name in _INTERFACE_ATTRIBUTES if not hasattr(experts, name)]
    if missing or not hasattr(type(experts).forward, "__wrapped__"):
        what = f"no {missing[0]!r}" if missing else "no dispatch in 'forward'"
        raise UserError(f"{of_class} do not use Transformers' experts interface: they have {what}")
    parameters = {name: value for name, value in experts.named_parameters() if not name.startswith(_SHARED)}
    for name in _needed(experts):
        if name not in parameters:
            raise UserError(f"{of_class} have no parameter {name!r}")
    parts: list[Part] = []
    start = 0
    for name, value in parameters.items():
        if "." in name or value.dim() < 2 or value.shape[0] != block.count:
            shape = f"[{', '.join(map(str, value.shape))}]"
            raise UserError(f"{of_class} have a parameter {name!r} of shape {shape}, not [{block.count} experts, …]")
        parts.append(Part(name, start, tuple(value.shape[1:]), value.dtype))
        start = _aligned(start + parts[-1].bytes)
    return Layout(layers, block.count, tuple(parts))


def _needed(experts: nn.Module) -> list[str]:
    """The names of an expert's parameters in the interface."""
    matrices = ["gate_up_proj" if experts.has_gate else "up_proj", "down_proj"]
    return matrices + [f"{name}_bias" for name in matrices if experts.has_bias]


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
