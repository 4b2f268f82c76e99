"""The list of prompt sets, and the description of one."""

from collections import Counter
from typing import Any

import numpy as np

from common.tables import name_table, text_table
from traces.prompts.prompt import Prompt
from traces.prompts.prompt_sets import BUILT_IN, HUB_SETS, PASSAGES, PromptSet, read_prompts

_SHIPPED = {BUILT_IN: "requests", PASSAGES: "passages to continue"}
_EXAMPLES = 3
_EXAMPLE_WIDTH = 300
_PERCENTILES = {"p5": 5, "p50": 50, "p95": 95, "max": 100}


def known_sets() -> list[dict[str, str]]:
    """Name, location and content of the known sets, and of the kinds of files."""
    rows = [(name, "ships with the project", _about(name, what)) for name, what in _SHIPPED.items()]
    rows += [(name, f"hub: {one.repository}", one.about) for name, one in HUB_SETS.items()]
    rows += [
        ("FILE.jsonl, FILE.json", "a file", "objects with a prompt, turns (MT-bench) or a conversation"),
        ("FILE", "a file", "plain text, one prompt per line"),
        ("FOLDER", "a folder", "a copy of a data set of the hub, e.g. of lmsys-chat-1m"),
    ]
    return [dict(zip(("name", "where", "what"), row, strict=True)) for row in rows]


def _about(shipped: str, what: str) -> str:
    prompts = read_prompts(shipped).prompts
    kinds = len({prompt.source for prompt in prompts})
    return f"{len(prompts)} {what} of {kinds} kinds, written for this project (Apache-2.0)"


def described(found: PromptSet) -> dict[str, Any]:
    """Counts by source, lengths and examples, as plain JSON."""
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
    """The first, the middle and the last prompt."""
    places = np.linspace(0, len(prompts) - 1, _EXAMPLES).round().astype(int)
    return [prompts[place] for place in np.unique(places)]


def table(found: PromptSet) -> str:
    """The description as text."""
    content = described(found)
    sources = ", ".join(f"{name} ({count:,})" for name, count in content["sources"].items())
    head = [("set", content["name"]), ("prompts", f"{content['prompts']:,}"), ("sources", sources)]
    columns = ("mean", *_PERCENTILES)
    lengths = [(unit, *(f"{content[unit][column]:,}" for column in columns)) for unit in ("words", "characters")]
    shown = [f"[{one['source']}]\n{_cut(one['prompt'])}" for one in content["examples"]]
    return "\n\n".join(
        [
            name_table(head),
            text_table(lengths, ("per prompt", *columns), texts=0),
            *shown,
        ]
    )


def _cut(text: str) -> str:
    return text if len(text) <= _EXAMPLE_WIDTH else f"{text[:_EXAMPLE_WIDTH]} … ({len(text):,} characters)"
