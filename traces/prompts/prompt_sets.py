"""Prompt sets: the named ones, and which prompts to take from a set."""

import importlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Annotated

import numpy as np
from annotated_types import Ge

from common.errors import FieldError, UserError, unknown
from common.settings import check
from traces.prompts.prompt import Prompt, prompts_of
from traces.prompts.prompt_files import Row, rows_of

BUILT_IN = "built-in"
PASSAGES = "built-in-passages"
SHIPPED = {
    name: Path(__file__).parent / file
    for name, file in ((BUILT_IN, "built_in_prompts.jsonl"), (PASSAGES, "built_in_passages.jsonl"))
}
POOL = 10_000  # prompts of a hub set that a sample is drawn from, if there is no limit


@dataclass(frozen=True, slots=True)
class HubSet:
    """A data set of the Hugging Face hub."""

    repository: str
    file: str | None  # a JSON array; None: the files that `datasets` finds
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
    """Which prompts to take from a set, and where its rows store them."""

    prompt_field: str | None = None
    """Field of a JSON row that contains the prompt, e.g. text, data.question or turns.1. Default: the first present of
    prompt, turns, conversation, conversations, messages."""
    source_name: str | None = None
    """Source label for prompts without one. Default: the name of the set."""
    max_prompt_chars: Annotated[int, Ge(1)] | None = None
    """Skip prompts of more than N characters; a token averages about 4."""
    limit: Annotated[int, Ge(1)] | None = None
    """Take only the first N prompts that are not skipped."""
    sample: Annotated[int, Ge(1)] | None = None
    """Draw N prompts at random from those within the limit; without a limit, from all (Hugging Face sets: from the
    first 10,000)."""

    def __post_init__(self) -> None:
        check(self)


ALL_PROMPTS = PromptChoice()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """The prompts taken from a set, in its order; `dropped` counts skipped prompts by reason."""

    name: str  # for traces: set and revision, or file, and how it was sampled
    where: str  # for error messages
    prompts: list[Prompt]
    dropped: dict[str, int]

    @property
    def left_out(self) -> str:
        """The dropped prompts by reason, as text."""
        return ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())


def read_prompts(where: str, choice: PromptChoice = ALL_PROMPTS, *, seed: int = 0) -> PromptSet:
    """Read the prompts of a set that `choice` takes; `seed` is for its sample.

    `where` is the name of a set (hub sets also as NAME@REVISION), a file, or a folder with a copy of a data set. Hub
    sets are streamed. Raises `UserError`, with file, line and field, or with advice on how to reach the hub; also if no
    prompt remains.
    """
    if seed < 0:
        raise FieldError("seed", f"must be at least 0, not {seed}")
    large = _hub_set(where) is not None
    if large and choice.limit is None and choice.sample is None:
        raise UserError(f"{where}: this set is large; choose the number of prompts with `limit` or `sample`")
    name, default, rows = _open(where)
    dropped: Counter[str] = Counter()
    found = prompts_of(rows, choice.prompt_field, choice.source_name or default, dropped)
    found = _short_enough(found, choice.max_prompt_chars, dropped)
    found = islice(found, POOL if large and choice.limit is None else choice.limit)
    parts = [name]
    if choice.max_prompt_chars is not None:
        parts.append(f"at most {choice.max_prompt_chars} characters")
    if choice.sample is None:
        taken = list(found)
    else:
        taken, pool = reservoir(found, choice.sample, np.random.default_rng(seed))
        parts.append(f"{choice.sample} of the first {pool}, seed {seed}")
    result = PromptSet(name=", ".join(parts), where=where, prompts=taken, dropped=dict(sorted(dropped.items())))
    if not taken:
        why = f" that can be used (skipped: {result.left_out})" if dropped else ""
        raise UserError(f"{where}: contains no prompt{why}")
    if choice.sample is not None and len(taken) < choice.sample:
        raise FieldError(
            "sample", f"must be at most {len(taken)}, the number of prompts in {where}, not {choice.sample}"
        )
    return result


def read_chosen(where: str, choice: PromptChoice, *, seed: int) -> PromptSet:
    """`read_prompts`, with a note on stderr if prompts were skipped."""
    found = read_prompts(where, choice, seed=seed)
    if found.dropped:
        print(f"{found.where}: skipped {found.left_out}", file=sys.stderr)
    return found


def reservoir(items: Iterable[Prompt], size: int, rng: np.random.Generator) -> tuple[list[Prompt], int]:
    """A random sample of `size` items in their order, every subset equally likely, and the number of items.

    Only the sample is in memory (Vitter's algorithm R).
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


def _open(where: str) -> tuple[str, str, Iterator[Row]]:
    """Name for a trace, default source of prompts, and rows."""
    if (hub_set := _hub_set(where)) is not None:
        name, _, revision = where.partition("@")
        pinned, rows = _hub(name).rows_of_hub(name, hub_set.repository, file=hub_set.file, revision=revision or None)
        return f"{name} ({pinned})", name, rows
    if where in SHIPPED:
        return where, where, rows_of(SHIPPED[where])
    path = Path(where)
    if path.is_dir():
        if path.suffix == ".trace":  # `datasets` would take its tables for prompts
            raise UserError(f"{where}: is a trace, not a set of prompts")
        folder = path.resolve().name
        return folder, folder, _hub(where).rows_of_folder(path)
    if not path.exists() and path.name == where and not path.suffix:
        raise unknown("prompt set", where, [*SHIPPED, *HUB_SETS])
    return path.name, path.stem, rows_of(path)


def _hub(name: str) -> ModuleType:
    """The module for hub sets, imported late because it needs `datasets`."""
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
