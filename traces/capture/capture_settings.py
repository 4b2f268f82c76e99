"""Settings of a recording. Imports no torch, so help and error messages appear at once."""

from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from typing_extensions import override

from common.errors import FieldError, UserError
from common.settings import check
from traces.format.target import TraceTarget

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DeviceMap = Literal["auto", "balanced", "sequential"]

PREFILL_TOKENS = 37  # of a text that is continued: the mean prompt of LMSYS-Chat-1M (paper §6.1)
_BATCH_SIZE = 8

Mode = Literal["greedy", "sampled", "text"]


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The model to run."""

    model: str
    """A model shipped with the project (pocket, mixtral-8x7b-twin, qwen1.5-moe-a2.7b-twin or phi-3.5-moe-twin), a
    folder, or a Hugging Face repository."""
    _: KW_ONLY
    revision: str | None = None
    """Branch, tag or commit of the Hugging Face repository."""
    dtype: Dtype = "auto"
    """Data type of the weights. auto: as in the checkpoint; float32 for shipped models."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class PlacedModel(ModelChoice):
    """The model to run, and where."""

    _: KW_ONLY
    device: str | None = None
    """cpu, cuda, cuda:1 … Default: cuda if available."""
    device_map: DeviceMap | None = None
    """Spread the model over all GPUs, instead of using one device."""
    threads: Annotated[int, Ge(1)] | None = None
    """CPU threads. Default: PyTorch's choice; use 1 for small models."""
    trust_remote_code: bool = False
    """Run model code from the repository."""

    @override
    def __post_init__(self) -> None:
        check(self)
        _not_both(self, "device", "device_map")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Number of tokens per prompt and per output."""

    max_new_tokens: Annotated[int, Ge(1)] | None = None
    """Generate at most N tokens per prompt."""
    output_tokens: Annotated[int, Ge(1)] | None = None
    """Generate exactly N tokens per prompt: end-of-sequence tokens are never chosen."""
    prompt_tokens: Annotated[int, Ge(1)] | None = None
    """Make every prompt exactly N tokens long, start token and template included: cut long prompts, extend short ones
    with the text of the next prompt."""
    chat_template: bool = False
    """Wrap each prompt or text as a user turn in the tokenizer's chat template."""

    def __post_init__(self) -> None:
        check(self)
        _not_both(self, "max_new_tokens", "output_tokens")

    @property
    def most_new_tokens(self) -> int | None:
        """Maximum number of tokens after a prompt; None if not set."""
        return self.output_tokens or self.max_new_tokens

    @property
    def new_tokens(self) -> int:
        """Maximum number of tokens generated per prompt; raises `UserError` if not set."""
        number = self.most_new_tokens
        if number is None:
            raise UserError("`max_new_tokens` or `output_tokens` is required")
        return number

    @property
    def prefill_tokens(self) -> int:
        """Length of the prefill when a text is continued, in tokens."""
        return self.prompt_tokens or PREFILL_TOKENS

    @property
    def exactly(self) -> bool:
        """Whether every prompt gets exactly `new_tokens`."""
        return self.output_tokens is not None

    def or_at_most(self, new_tokens: int) -> "Lengths":
        """These lengths, with `max_new_tokens` set to `new_tokens` if no number of new tokens was given."""
        if self.most_new_tokens:
            return self
        return replace(self, max_new_tokens=new_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """How batches are formed and tokens are chosen."""

    batch_size: Annotated[int, Ge(1)] | None = None
    """Prompts per batch. Default: 8."""
    batch_tokens: Annotated[int, Ge(1)] | None = None
    """Limit the tokens per batch instead: number of prompts × (longest prompt + new tokens) is at most N."""
    continue_text: bool = False
    """Do not generate; read each text's own tokens. The first --prompt-tokens (default: 37) are the prefill; each
    later token is a decode step, at most --max-new-tokens, or exactly --output-tokens, which skips shorter texts."""
    temperature: Annotated[float, Gt(0)] | None = None
    """Sample at this temperature. Default: greedy."""
    seed: Annotated[int, Ge(0)] = 0
    """Random seed for drawing prompts and sampling tokens."""

    def __post_init__(self) -> None:
        check(self)
        _not_both(self, "batch_size", "batch_tokens")
        if self.continue_text and self.temperature is not None:
            raise FieldError("temperature", "cannot be combined with `continue_text`")

    @property
    def mode(self) -> Mode:
        """How the tokens of decode steps are chosen."""
        if self.continue_text:
            return "text"
        return "greedy" if self.temperature is None else "sampled"

    @property
    def prompts_per_batch(self) -> int | None:
        """None if `batch_tokens` limits batches instead."""
        return (self.batch_size or _BATCH_SIZE) if self.batch_tokens is None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What to record besides the routing."""

    lookahead: tuple[Annotated[int, Ge(1)], ...] = ()
    """Also apply the router of layer l+D to the input of router l, for each distance D, e.g. 1,3."""
    keep_prompts: bool = False
    """Store the text of the prompts, not only their hashes."""

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "lookahead", tuple(sorted(set(self.lookahead))))


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectSettings:
    """How prompts run, what is recorded, and where the trace is written."""

    model: PlacedModel
    lengths: Lengths
    generation: Generation = field(default_factory=Generation)
    recording: Recording = field(default_factory=Recording)
    target: TraceTarget

    def __post_init__(self) -> None:
        check(self)
        self.generated_tokens  # noqa: B018  # raises an error if no number of tokens is set

    @property
    def generated_tokens(self) -> int:
        """Maximum number of tokens that the model generates per prompt; 0 when it continues texts."""
        return 0 if self.generation.continue_text else self.lengths.new_tokens


def _not_both(settings: Any, one: str, other: str) -> None:
    if getattr(settings, one) is not None and getattr(settings, other) is not None:
        raise FieldError(other, f"cannot be combined with `{one}`")
