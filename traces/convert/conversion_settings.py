"""What converting a recording depends on: the traced model, how lines are read, and the trace to be made."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from typing_extensions import override

from common.errors import FieldError, nearest
from common.settings import Suffix, check
from policies.types import ModelShape
from traces.convert.routing_row import ROW_PARTS
from traces.format.target import TraceTarget
from traces.published_models import published

_NO_SIZE = ("name", "expert_bytes_by_layer")
_SIZES = [one.name for one in fields(ModelShape) if one.name not in _NO_SIZE]
_REQUIRED = [one.name for one in fields(ModelShape) if one.name in _SIZES and one.default is MISSING]


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedModel:
    """Which model was traced."""

    model: str
    """Name of the traced model, e.g. gpt-oss-20b."""
    shape: str | None = None
    """Its sizes, if it is not known here:
    layers=N,experts=N,top_k=N,hidden=N,expert_ffn=N,attention_heads=N,kv_heads=N,head_dim=N,vocab=N."""

    def __post_init__(self) -> None:
        check(self)
        self.sizes()

    def sizes(self) -> ModelShape:
        """The sizes that `shape` spells out, or those of the published model."""
        return published(self.model) if self.shape is None else _spelled(self.model, self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class PerhapsTracedModel:
    """Which model was traced, for recordings that say so themselves."""

    model: str | None = None
    """Name of the traced model (default: the recording's). A published one gives hidden size and attention; any other
    needs a shape."""
    shape: str | None = None
    """Sizes of a model that is not known here, as for the other formats. Without model and shape, sizes are guessed
    from the bytes in the recording."""

    def __post_init__(self) -> None:
        check(self)
        self.sizes()

    def sizes(self) -> ModelShape | None:
        """The sizes that `shape` spells out, or those of the published model; None if neither is given."""
        if self.shape is not None:
            return _spelled(self.model or "traced", self.shape)
        return None if self.model is None else published(self.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportTarget(TraceTarget):
    """The trace to be made of a recording."""

    limit: Annotated[int, Ge(1)] | None = None
    """Convert only the first N requests."""
    license: str | None = None
    """Licence of the data, to be noted in the trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginnings:
    """How much of each request is converted."""

    max_tokens: Annotated[int, Ge(1)] | None = None
    """Convert only the first N tokens of each request."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountsTarget:
    """The table to be made of counts."""

    out: Annotated[Path, Suffix(".parquet")]
    """The table to write: FILE.parquet."""
    overwrite: bool = False
    """Replace a table that is there."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNumbers:
    """How the source numbers layers."""

    first_layer: Annotated[int, Ge(0)] = 0
    """Number that the source gives to the first MoE layer, if dense layers come before it."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogReading(LayerNumbers):
    """How the lines of a route log are read."""

    field: tuple[str, ...] = ()
    """What the log calls a part of a row, if that is not known here, as NAME=KEY; NAME= leaves the part out. NAME is
    one of request, position, iteration, phase, layer, experts, weights, gate, token, source. Can be repeated."""
    warmup: tuple[str, ...] = ()
    """Drop rows with this value, as KEY=VALUE, e.g. phase=profile. Can be repeated. Rows with "warmup": true are always
    dropped."""
    index: Literal["request", "pass"] = "request"
    """Where positions begin anew. With pass, requests must have run one at a time, and a forward pass of several tokens
    begins the next request."""
    warmup_passes: Annotated[int, Ge(0)] = 0
    """Drop the first N forward passes; needs index pass."""

    @override
    def __post_init__(self) -> None:
        check(self)
        for name in self.names:
            if name not in ROW_PARTS:
                raise FieldError("field", f"unknown part of a row {name!r}; {nearest(name, ROW_PARTS)}")
        list(self.warmup_rows)
        if self.warmup_passes and self.index != "pass":
            raise FieldError("warmup_passes", f"needs index pass, value {self.warmup_passes}")

    @property
    def names(self) -> dict[str, str]:
        """The field that holds a part of a row; an empty text where the part is not to be read."""
        return dict(_pairs("field", self.field, empty=True))

    @property
    def warmup_rows(self) -> tuple[tuple[str, str], ...]:
        """Rows to drop, by field and value, a text or JSON."""
        return tuple(_pairs("warmup", self.warmup))


def _spelled(model: str, shape: str) -> ModelShape:
    """The model of this name with the sizes that a text spells out."""
    sizes: dict[str, float] = {}
    for part in shape.split(","):
        name, _, value = part.partition("=")
        if name not in _SIZES:
            raise FieldError("shape", f"unknown size {name!r}; {nearest(name, _SIZES)}")
        try:
            sizes[name] = float(value) if name == "weight_bytes" else int(value)
        except ValueError:
            raise FieldError("shape", f"{name} must be a number, value {value!r}") from None
    missing = [name for name in _REQUIRED if name not in sizes]
    if missing:
        raise FieldError("shape", f"{', '.join(missing)} must be given too, since times depend on all sizes")
    return ModelShape(name=model, **sizes)  # type: ignore[arg-type]  # weight_bytes alone is a float


def _pairs(field: str, texts: tuple[str, ...], *, empty: bool = False) -> Iterator[tuple[str, str]]:
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign and (value or empty)):
            raise FieldError(field, f"expected {'NAME=KEY' if empty else 'KEY=VALUE'}, value {text!r}")
        yield name, value
