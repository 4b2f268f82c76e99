"""The routing that the paper's figures are drawn from: recordings of the twins, or the user's own traces."""

from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from operator import attrgetter
from pathlib import Path
from threading import RLock

from common.errors import UserError
from common.progress import bar
from policies.types import ModelShape
from sim.paper.tiers import FULL, Tier
from sim.sweeps.workers import Workers
from traces.format.reader import Trace
from traces.prompts.prompt_sets import PASSAGES
from traces.published_models import PUBLISHED

MODELS = {"mixtral-8x7b": ("Mixtral", 3), "qwen1.5-moe-a2.7b": ("Qwen", 6), "phi-3.5-moe": ("Phi", 4)}
"""For each published model, the paper's name and best prefetch distance (fig. 15)."""
TWIN = "-twin"
OTHER_DISTANCE = 3  # the paper uses it up to §6.7


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """Prompts that replace one of the paper's data sets and have its mean lengths (paper §6.1)."""

    name: str
    """The value of the column `prompts`."""
    stands_for: str
    prompts: str
    """The set, by its name in `finemoe traces prompts`."""
    prompt_tokens: int
    new_tokens: int
    temperature: float | None
    """Tokens are sampled at this temperature; with None they are the text's own."""


STAND_INS = (
    StandIn(
        name="chat",
        stands_for="LMSYS-Chat-1M",
        prompts="built-in",
        prompt_tokens=37,
        new_tokens=127,
        temperature=1.0,  # greedy decoding repeats itself (docs/naturalness.md)
    ),
    StandIn(name="text", stands_for="ShareGPT", prompts=PASSAGES, prompt_tokens=43, new_tokens=122, temperature=None),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperTrace:
    """A trace under the names that tables use."""

    path: Path
    model: str
    """The paper's name, such as Mixtral, or another model's own name."""
    prompts: str
    """`chat` or `text` for the stand-ins, else the name of the recorded set or of the trace."""
    sizes: str | None
    """The published model whose sizes are simulated; None: the trace's own."""
    best_distance: int
    """The paper's best prefetch distance for the model."""

    @property
    def title(self) -> str:
        """Model and prompts."""
        return f"{self.model}, {self.prompts}"


def twins(tier: Tier, folder: Path) -> list[PaperTrace]:
    """The traces of every twin on the stand-ins, recorded or not."""
    used = STAND_INS[: tier.prompt_sets]
    return [_twin(published, stand_in, tier, folder) for stand_in in used for published in MODELS]


def are_all_twins(traces: Sequence[PaperTrace]) -> bool:
    """Whether these are all traces of the full study: every twin on both stand-ins, with all prompts."""
    every = {trace.path.name for trace in twins(FULL, Path())}
    recorded = {trace.path.name for trace in traces if Trace.open(trace.path).meta.model.endswith(TWIN)}
    return recorded == every and len(traces) == len(every)


def record_missing(traces: Sequence[PaperTrace], tier: Tier, workers: Workers) -> None:
    """Record the twins' missing traces, each in its own process. An interrupted recording is continued."""
    missing = [trace for trace in traces if not trace.path.exists()]
    with bar("recording twins", len(missing), unit="trace") as done:
        for _ in workers.each(_record, [(trace, tier) for trace in missing]):
            done(1)


def users(paths: Sequence[Path]) -> list[PaperTrace]:
    """The user's traces; a `UserError` if two of them share model and prompts."""
    found = [_user(path) for path in paths]
    for place, trace in enumerate(found):
        if trace.title in (before.title for before in found[:place]):
            raise UserError(
                f"{trace.path}: another trace is also of {trace.title}; give one trace per model and prompts"
            )
    return found


def _twin(published: str, stand_in: StandIn, tier: Tier, folder: Path) -> PaperTrace:
    title, best_distance = MODELS[published]
    size = "" if tier.prompts is None else f"-{tier.prompts}x{_new_tokens(stand_in, tier)}"
    return PaperTrace(
        path=folder / f"{published}{TWIN}-{stand_in.name}{size}.trace",
        model=title,
        prompts=stand_in.name,
        sizes=published,
        best_distance=best_distance,
    )


def _new_tokens(stand_in: StandIn, tier: Tier) -> int:
    return min(stand_in.new_tokens, tier.new_tokens)


def _record(trace: PaperTrace, tier: Tier) -> None:
    """Do what `finemoe traces collect` does, in a process that ends with Ctrl-C or when the command is killed."""
    from tqdm import tqdm

    from traces.capture.capture_settings import CollectSettings, Generation, Lengths, PlacedModel, Recording
    from traces.format.target import TraceTarget
    from traces.prompts.prompt_sets import PromptChoice, read_prompts

    try:
        from traces.capture.collection import collect
    except ModuleNotFoundError as error:
        raise UserError(f"recording the twins needs {error.name}: pip install 'finemoe-lab[models]'") from None
    stand_in = next(each for each in STAND_INS if each.name == trace.prompts)
    texts, new_tokens = stand_in.temperature is None, _new_tokens(stand_in, tier)
    settings = CollectSettings(
        model=PlacedModel(f"{trace.sizes}{TWIN}", device="cpu", threads=1),
        lengths=Lengths(
            prompt_tokens=stand_in.prompt_tokens,
            max_new_tokens=new_tokens if texts else None,
            output_tokens=None if texts else new_tokens,
            chat_template=True,
        ),
        generation=Generation(continue_text=texts, temperature=stand_in.temperature),
        recording=Recording(lookahead=(1, 3)),
        target=TraceTarget(out=trace.path),
    )
    tqdm.set_lock(RLock())  # instead of a semaphore, about which Python complains if this process is killed
    with redirect_stderr(StringIO()):  # bars of several processes on one line
        collect(settings, read_prompts(stand_in.prompts, PromptChoice(sample=tier.prompts)))


def _user(path: Path) -> PaperTrace:
    meta = Trace.open(path).meta
    published = _original(meta.shape) or meta.model.removesuffix(TWIN)
    sizes = published if published in PUBLISHED and meta.model.endswith(TWIN) else None
    title, best_distance = MODELS.get(published, (meta.model, OTHER_DISTANCE))
    set_name = (meta.prompts or "").partition(" ")[0].rstrip(",")
    prompts = next((each.name for each in STAND_INS if each.prompts == set_name), set_name or path.stem)
    return PaperTrace(path=path, model=title, prompts=prompts, sizes=sizes, best_distance=best_distance)


def _original(shape: ModelShape) -> str | None:
    """The published model of this shape, whatever its repository is called."""
    facts = attrgetter("layers", "experts", "top_k", "hidden", "expert_ffn")
    return next((name for name, each in PUBLISHED.items() if facts(each) == facts(shape)), None)
