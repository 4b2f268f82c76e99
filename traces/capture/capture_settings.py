"""What a recording depends on. Needs no torch, so that help and mistakes come at once."""

from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from typing_extensions import override

from common.errors import FieldError
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
    """pocket, mixtral-8x7b-twin, qwen1.5-moe-a2.7b-twin, phi-3.5-moe-twin, a folder, or a repository of the Hugging
    Face hub."""
    _: KW_ONLY
    revision: str | None = None
    """Branch, tag or commit of a repository of the hub."""
    dtype: Dtype = "auto"
    """Type of the weights; auto is the checkpoint's own."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class PlacedModel(ModelChoice):
    """The model to run, and where."""

    _: KW_ONLY
    device: str | None = None
    """cpu, cuda, cuda:1 … (default: cuda if there is one)."""
    device_map: DeviceMap | None = None
    """Spread the model over all GPUs; replaces the device."""
    threads: Annotated[int, Ge(1)] | None = None
    """Threads of the CPU (default: torch's choice); small models want 1."""
    trust_remote_code: bool = False
    """Run model code that the repository brings."""

    @override
    def __post_init__(self) -> None:
        check(self)
        _not_both(self, "device", "device_map")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How many tokens a prompt has and how many are generated for it."""

    max_new_tokens: Annotated[int, Ge(1)] | None = None
    """Generate at most N tokens for each prompt; of a text that is continued, take at most N after the prefill."""
    output_tokens: Annotated[int, Ge(1)] | None = None
    """Generate exactly N tokens: those that end a generation are never chosen. Shorter texts are left out."""
    prompt_tokens: Annotated[int, Ge(1)] | None = None
    """Give every prompt exactly N tokens, start token and template included. A long prompt is cut, a short one is
    continued with the text of the next. Of a text that is continued, the first N are the prefill (default: 37)."""
    chat_template: bool = False
    """Give each prompt, or text, as a user's turn in the tokenizer's chat template."""

    def __post_init__(self) -> None:
        check(self)
        _not_both(self, "max_new_tokens", "output_tokens")

    @property
    def most_new_tokens(self) -> int | None:
        """The most tokens that follow a prompt; None if no number was given."""
        return self.output_tokens or self.max_new_tokens

    @property
    def new_tokens(self) -> int:
        """The most tokens that are generated for a prompt; a `FieldError` if no number was given."""
        number = self.most_new_tokens
        if number is None:
            raise FieldError("max_new_tokens", "is required, or `output_tokens`")
        return number

    @property
    def prefill_tokens(self) -> int:
        """How many tokens of a text that is continued are the prefill."""
        return self.prompt_tokens or PREFILL_TOKENS

    @property
    def exactly(self) -> bool:
        """Whether every prompt gets `new_tokens`, and not fewer."""
        return self.output_tokens is not None

    def or_at_most(self, new_tokens: int) -> "Lengths":
        """These lengths, with `max_new_tokens` where no number of new tokens was given."""
        if self.most_new_tokens:
            return self
        return replace(self, max_new_tokens=new_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """How batches are cut and tokens chosen."""

    batch_size: Annotated[int, Ge(1)] | None = None
    """Prompts that run together (default: 8)."""
    batch_tokens: Annotated[int, Ge(1)] | None = None
    """Fill a batch up to N tokens instead; each prompt counts as the longest one, with its new tokens."""
    continue_text: bool = False
    """Take each text's own tokens: its first part is the prefill, and each token after it a decode step."""
    temperature: Annotated[float, Gt(0)] | None = None
    """Sample at this temperature (default: take the likeliest token)."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of whatever is drawn: the sample of prompts, and tokens at a temperature."""

    def __post_init__(self) -> None:
        check(self)
        _not_both(self, "batch_size", "batch_tokens")
        if self.continue_text and self.temperature is not None:
            raise FieldError("temperature", "cannot be given together with `continue_text`")

    @property
    def mode(self) -> Mode:
        """Where the tokens of decode steps come from."""
        if self.continue_text:
            return "text"
        return "greedy" if self.temperature is None else "sampled"

    @property
    def prompts_per_batch(self) -> int | None:
        """None where batches are cut by `batch_tokens`."""
        return (self.batch_size or _BATCH_SIZE) if self.batch_tokens is None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What is recorded besides the routing."""

    lookahead: tuple[Annotated[int, Ge(1)], ...] = ()
    """Also apply the router of layer l+D to what router l sees, for each distance D; several as in 1,3."""
    keep_prompts: bool = False
    """Store the text of the prompts, not only its hash."""

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "lookahead", tuple(sorted(set(self.lookahead))))


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectSettings:
    """How prompts are run, what is recorded of it, and where."""

    model: PlacedModel
    lengths: Lengths
    generation: Generation = field(default_factory=Generation)
    recording: Recording = field(default_factory=Recording)
    target: TraceTarget

    def __post_init__(self) -> None:
        check(self)
        self.generated_tokens  # noqa: B018  # which is an error if there is no number

    @property
    def generated_tokens(self) -> int:
        """The most tokens that the model generates for a prompt; none where the text itself goes on."""
        return 0 if self.generation.continue_text else self.lengths.new_tokens


def _not_both(settings: Any, one: str, other: str) -> None:
    if getattr(settings, one) is not None and getattr(settings, other) is not None:
        raise FieldError(other, f"cannot be given together with `{one}`")
