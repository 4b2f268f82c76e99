"""Sets of prompts: those that have names, and which prompts to take of one."""

import importlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np

from common.errors import UserError, unknown
from traces.prompts.prompt import Prompt, prompts_of
from traces.prompts.prompt_files import Row, rows_of

BUILT_IN = "built-in"
BUILT_IN_FILE = Path(__file__).parent / "built_in_prompts.jsonl"
POOL = 10_000  # prompts of a hub's set that a sample is drawn from, unless a limit says otherwise


@dataclass(frozen=True, slots=True)
class HubSet:
    """A data set of the Hugging Face hub."""

    repository: str
    file: str | None  # one JSON array; None: whatever `datasets` finds
    about: str


HUB_SETS = {
    "lmsys-chat-1m": HubSet("lmsys/lmsys-chat-1m", None, "first messages to chatbots; accept its terms first"),
    "sharegpt": HubSet(
        "anon8231489123/ShareGPT_Vicuna_unfiltered",
        "ShareGPT_V3_unfiltered_cleaned_split.json",
        "first messages of shared ChatGPT conversations",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptChoice:
    """Which prompts to take."""

    name: str  # of a set (of the hub also NAME@REVISION), or a file, or a folder with a copy of a data set
    field: str | None = None  # that holds the prompt; None: the first of `prompts.FIELDS`
    source: str | None = None  # of prompts that do not say theirs; None: the name
    max_chars: int | None = None  # leave longer ones out
    limit: int | None = None  # the first so many
    sample: int | None = None  # of these, so many at random
    seed: int = 0  # of the sample


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """What was taken, in the order of the set; `dropped` counts by reason."""

    name: str  # as a trace tells it: set and revision, or file, and how it was sampled
    where: str  # as errors tell it
    prompts: list[Prompt]
    dropped: dict[str, int]

    @property
    def left_out(self) -> str:
        """What was dropped, in words."""
        return ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())


def read_prompts(choice: PromptChoice) -> PromptSet:
    """The prompts that `choice` describes.

    Sets of the hub are streamed. Whatever is wrong is a `UserError` in one line that names file, line and field, or
    what to do about the hub; so is a choice that leaves no prompt.
    """
    large = _hub_set(choice.name) is not None
    if large and choice.limit is None and choice.sample is None:
        raise UserError(f"{choice.name}: is large; say how many prompts to take with --limit N or --sample N")
    name, default, rows = _open(choice)
    dropped: Counter[str] = Counter()
    found = prompts_of(rows, choice.field, choice.source or default, dropped)
    found = _short_enough(found, choice.max_chars, dropped)
    found = islice(found, POOL if large and choice.limit is None else choice.limit)
    told = [name]
    if choice.max_chars is not None:
        told.append(f"at most {choice.max_chars} characters")
    if choice.sample is None:
        taken = list(found)
    else:
        taken, pool = reservoir(found, choice.sample, np.random.default_rng(choice.seed))
        told.append(f"{choice.sample} of the first {pool}, seed {choice.seed}")
    result = PromptSet(name=", ".join(told), where=choice.name, prompts=taken, dropped=dict(sorted(dropped.items())))
    if not taken:
        why = f" that can be used (left out: {result.left_out})" if dropped else ""
        raise UserError(f"{choice.name}: holds no prompt{why}")
    if choice.sample is not None and len(taken) < choice.sample:
        raise UserError(f"{choice.name}: --sample {choice.sample}, but there are only {len(taken)} prompts")
    return result


def reservoir(items: Iterable[Prompt], size: int, rng: np.random.Generator) -> tuple[list[Prompt], int]:
    """`size` of the items at random, every subset equally likely, in their order; and how many items there were.

    Only the sample is kept in memory (Vitter's algorithm R).
    """
    kept: list[tuple[int, Prompt]] = []
    count = 0
    for count, item in enumerate(items, start=1):
        if count <= size:
            kept.append((count, item))
        elif (place := int(rng.integers(count))) < size:
            kept[place] = (count, item)
    return [item for _, item in sorted(kept, key=lambda one: one[0])], count


def _hub_set(name: str) -> HubSet | None:
    return HUB_SETS.get(name.partition("@")[0])


def _open(choice: PromptChoice) -> tuple[str, str, Iterator[Row]]:
    """Name for a trace, source of prompts that do not say theirs, and rows."""
    if (hub_set := _hub_set(choice.name)) is not None:
        name, _, revision = choice.name.partition("@")
        pinned, rows = _hub(name).rows_of_hub(name, hub_set.repository, file=hub_set.file, revision=revision or None)
        return f"{name} ({pinned})", name, rows
    if choice.name == BUILT_IN:
        return BUILT_IN, BUILT_IN, rows_of(BUILT_IN_FILE)
    path = Path(choice.name)
    if path.is_dir():
        folder = path.resolve().name
        return folder, folder, _hub(choice.name).rows_of_folder(path)
    if not path.exists() and path.name == choice.name and not path.suffix:
        raise unknown("prompt set", choice.name, [BUILT_IN, *HUB_SETS])
    return path.name, path.stem, rows_of(path)


def _hub(name: str) -> ModuleType:
    """Imported here, since it needs `datasets`."""
    try:
        return importlib.import_module("traces.prompts.hub_prompts")
    except ModuleNotFoundError as error:
        raise UserError(f"{name} needs {error.name}: pip install 'finemoe-lab[models]'") from None


def _short_enough(found: Iterable[Prompt], longest: int | None, dropped: Counter[str]) -> Iterator[Prompt]:
    for one in found:
        if longest is not None and len(one.text) > longest:
            dropped[f"longer than {longest:,} characters"] += 1
        else:
            yield one
