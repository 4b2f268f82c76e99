"""Choosing prompts on the command line, and `python -m traces prompts`: the sets there are, and what is in one."""

import argparse
import json
import sys
from collections import Counter
from typing import Any

import numpy as np
from tabulate import tabulate

from common.errors import UserError
from traces.prompts.prompt import Prompt
from traces.prompts.prompt_sets import BUILT_IN, HUB_SETS, POOL, PromptChoice, PromptSet, read_prompts

_EXAMPLES = 3
_EXAMPLE_WIDTH = 300
_PERCENTILES = {"p5": 5, "p50": 50, "p95": 95, "max": 100}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `python -m traces prompts`."""
    parser.add_argument("prompts", nargs="?", metavar="NAME_OR_FILE", help="the set to look at (default: list all)")
    add_choice_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of --sample (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="for programs")


def add_choice_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `read_chosen` reads beside `prompts` and `seed`, which commands declare themselves."""
    add = parser.add_argument
    add("--prompt-field", metavar="NAME", help="of JSON: where the prompt is, as in text or data.question or turns.1")
    add("--source-name", metavar="NAME", help="source of prompts that do not say theirs (default: the set's name)")
    add("--max-prompt-chars", type=int, metavar="N", help="leave longer prompts out (a token has about 4 characters)")
    add("--limit", type=int, metavar="N", help="take only the first N prompts")
    add(
        "--sample",
        type=int,
        metavar="N",
        help=f"take N at random, by --seed, of the first --limit (default: of all; of a set of the hub, {POOL:,})",
    )


def read_chosen(args: argparse.Namespace, default: str | None = None) -> PromptSet:
    """The prompts that the arguments choose, `default` where they name none; what was left out is told on stderr."""
    for option in ("max_prompt_chars", "limit", "sample"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise UserError(f"--{option.replace('_', '-')} {value}: at least 1 is needed")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: it must not be negative")
    name = args.prompts or default
    assert name is not None
    choice = PromptChoice(
        name=name,
        field=args.prompt_field,
        source=args.source_name,
        max_chars=args.max_prompt_chars,
        limit=args.limit,
        sample=args.sample,
        seed=args.seed,
    )
    found = read_prompts(choice)
    if found.dropped:
        print(f"{found.where}: left out {found.left_out}", file=sys.stderr)
    return found


def run(args: argparse.Namespace) -> int:
    """List the sets, or describe one."""
    if args.prompts is None:
        print(json.dumps(sets(), indent=1) if args.json else tabulate(sets(), headers="keys", disable_numparse=True))
        return 0
    found = read_chosen(args)
    print(json.dumps(described(found), indent=1, ensure_ascii=False) if args.json else table(found))
    return 0


def sets() -> list[dict[str, str]]:
    """Name, place and content of the sets that have names."""
    kinds = len({prompt.source for prompt in read_prompts(PromptChoice(name=BUILT_IN)).prompts})
    about = f"{kinds} kinds of requests, written for this project (Apache-2.0)"
    rows = [(BUILT_IN, "ships with the project", about)]
    rows += [(name, f"hub: {one.repository}", one.about) for name, one in HUB_SETS.items()]
    rows += [
        ("FILE.jsonl, FILE.json", "a file", "objects with a prompt, MT-bench's turns, or a conversation"),
        ("FILE", "a file", "plain text, a prompt per line"),
        ("FOLDER", "a folder", "a copy of a data set of the hub, e.g. of lmsys-chat-1m"),
    ]
    return [dict(zip(("name", "where", "what"), row, strict=True)) for row in rows]


def described(found: PromptSet) -> dict[str, Any]:
    """Counts by source, lengths and examples."""
    prompts = found.prompts
    lengths = {
        "words": [len(prompt.text.split()) for prompt in prompts],
        "characters": [len(prompt.text) for prompt in prompts],
    }
    return {
        "name": found.name,
        "prompts": len(prompts),
        "left_out": found.dropped,
        "sources": dict(Counter(prompt.source for prompt in prompts).most_common()),
        **{
            unit: {"mean": round(float(np.mean(values)), 1)}
            | {name: int(np.percentile(values, q, method="nearest")) for name, q in _PERCENTILES.items()}
            for unit, values in lengths.items()
        },
        "examples": [{"source": one.source, "prompt": one.text} for one in examples(prompts)],
    }


def examples(prompts: list[Prompt]) -> list[Prompt]:
    """The first, one from the middle and the last."""
    places = np.linspace(0, len(prompts) - 1, _EXAMPLES).round().astype(int)
    return [prompts[place] for place in np.unique(places)]


def table(found: PromptSet) -> str:
    """The same for people."""
    told = described(found)
    sources = ", ".join(f"{name} ({count:,})" for name, count in told["sources"].items())
    head = [("set", told["name"]), ("prompts", f"{told['prompts']:,}"), ("sources", sources)]
    lengths = [
        (unit, *(f"{told[unit][column]:,}" for column in ("mean", *_PERCENTILES))) for unit in ("words", "characters")
    ]
    shown = [f"[{one['source']}]\n{_cut(one['prompt'])}" for one in told["examples"]]
    return "\n\n".join(
        [
            tabulate(head, tablefmt="plain", disable_numparse=True),
            tabulate(lengths, headers=("per prompt", "mean", *_PERCENTILES), disable_numparse=True, stralign="right"),
            *shown,
        ]
    )


def _cut(text: str) -> str:
    return text if len(text) <= _EXAMPLE_WIDTH else f"{text[:_EXAMPLE_WIDTH]} … ({len(text):,} characters)"
