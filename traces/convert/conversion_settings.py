"""Settings of a conversion: the traced model, how to read the recording, and the trace to write."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from typing_extensions import override

from common.errors import FieldError, UserError, nearest
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
    """The model that was traced."""

    model: str
    """Name of the traced model, e.g. gpt-oss-20b."""
    shape: str | None = None
    """Sizes of the model, if its name is unknown, as SIZE=N,SIZE=N,… with layers, experts, top_k, hidden, expert_ffn,
    attention_heads, kv_heads, head_dim and vocab."""

    def __post_init__(self) -> None:
        check(self)
        self.sizes()

    def sizes(self) -> ModelShape:
        """The sizes given in `shape`, or those of the published model."""
        return _published(self.model) if self.shape is None else _spelled(self.model, self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionalTracedModel:
    """The model that was traced, for recordings that may name it themselves."""

    model: str | None = None
    """Name of the traced model. Default: the recording's. A published model supplies the sizes that the recording
    lacks; any other name given here needs a shape."""
    shape: str | None = None
    """Sizes of the model, if its name is unknown, as SIZE=N,SIZE=N,… (`finemoe traces convert npz --help` lists them).
    Without model and shape, sizes are estimated from the bytes in the recording."""

    def __post_init__(self) -> None:
        check(self)
        self.sizes()

    def sizes(self) -> ModelShape | None:
        """The sizes given in `shape`, or those of the published model; None without both."""
        if self.shape is not None:
            return _spelled(self.model or "traced", self.shape)
        return None if self.model is None else _published(self.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportTarget(TraceTarget):
    """The trace to write, and how much of the recording it takes."""

    max_requests: Annotated[int, Ge(1)] | None = None
    """Convert only the first N requests."""
    license: str | None = None
    """Licence of the data, stored in the trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPart:
    """How much of each request to convert."""

    max_tokens: Annotated[int, Ge(1)] | None = None
    """Convert only the first N tokens of each request."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountsTarget:
    """The table of counts to write."""

    out: Annotated[Path, Suffix(".parquet")]
    """Table to write: FILE.parquet."""
    overwrite: bool = False
    """Replace existing outputs; other files and folders stay as they are."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNumbers:
    """How the recording numbers layers."""

    first_layer: Annotated[int, Ge(0)] = 0
    """The recording's number for the first MoE layer, if dense layers come before it."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogReading(LayerNumbers):
    """How to read the lines of a route log."""

    field: tuple[str, ...] = ()
    """NAME=KEY: the part NAME of a row is in the log's field KEY. Needed only for fields that are not recognised. NAME=
    ignores the part. NAME is request, position, iteration, phase, layer, experts, weights, gate, token or source.
    Repeatable."""
    warmup: tuple[str, ...] = ()
    """Drop rows with this value, as KEY=VALUE, e.g. phase=profile. Repeatable. Rows with "warmup": true are always
    dropped."""
    index: Literal["request", "pass"] = "request"
    """Whether positions restart at 0 with each request or with each forward pass. With pass, requests must have run one
    at a time; a forward pass of several tokens starts a new request."""
    warmup_passes: Annotated[int, Ge(0)] = 0
    """Drop the first N forward passes; only if the index is pass."""

    @override
    def __post_init__(self) -> None:
        check(self)
        for name in self.names:
            if name not in ROW_PARTS:
                raise FieldError("field", f"unknown part of a row {name!r}; {nearest(name, ROW_PARTS)}")
        list(self.warmup_rows)
        if self.warmup_passes and self.index != "pass":
            raise FieldError("warmup_passes", "needs `index` pass")

    @property
    def names(self) -> dict[str, str]:
        """The log's key for each part of a row; an empty string if the part is ignored."""
        return dict(_pairs("field", self.field, empty=True))

    @property
    def warmup_rows(self) -> tuple[tuple[str, str], ...]:
        """Key and value (a string or JSON) of the rows to drop."""
        return tuple(_pairs("warmup", self.warmup))


def _published(model: str) -> ModelShape:
    try:
        return published(model)
    except UserError as error:
        raise FieldError("model", f"{error} (any other model needs `shape`)") from None


def _spelled(model: str, shape: str) -> ModelShape:
    """The model with this name and the sizes in `shape`, written `layers=N,experts=N,…`."""
    sizes: dict[str, float] = {}
    for part in shape.split(","):
        name, _, value = part.partition("=")
        if name not in _SIZES:
            raise FieldError("shape", f"unknown size {name!r}; {nearest(name, _SIZES)}")
        try:
            sizes[name] = float(value) if name == "weight_bytes" else int(value)
        except ValueError:
            raise FieldError("shape", f"{name} must be a number, not {value!r}") from None
    missing = [name for name in _REQUIRED if name not in sizes]
    if missing:
        raise FieldError("shape", f"needs {', '.join(missing)} too, because times depend on all sizes")
    return ModelShape(name=model, **sizes)  # type: ignore[arg-type]  # only weight_bytes is a float


def _pairs(field: str, texts: tuple[str, ...], *, empty: bool = False) -> Iterator[tuple[str, str]]:
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign and (value or empty)):
            raise FieldError(field, f"must be {'NAME=KEY' if empty else 'KEY=VALUE'}, not {text!r}")
        yield name, value
