"""`finemoe traces prompts`: the sets of prompts there are, and what is in one."""

import json as json_text
from typing import Annotated

from cyclopts import Parameter

from common.commands import OUTPUT, PROMPTS, under
from common.tables import record_table
from traces.prompts.prompt_description import described, known_sets, table
from traces.prompts.prompt_sets import ALL_PROMPTS, PromptChoice, read_chosen


def prompts(
    prompts: Annotated[str | None, Parameter(group=PROMPTS)] = None,
    /,
    *,
    choice: Annotated[PromptChoice, under(PROMPTS)] = ALL_PROMPTS,
    seed: Annotated[int, Parameter(group=PROMPTS)] = 0,
    json: Annotated[bool, Parameter(group=OUTPUT)] = False,
) -> None:
    """List the sets of prompts, or show what is in one: sources, lengths and examples.

    Parameters
    ----------
    prompts
        A name of the list, also as NAME@REVISION, a file, or a folder (default: show the list).
    seed
        Seed of the sample.
    json
        Print JSON, for programs.
    """
    if prompts is None:
        rows = known_sets()
        print(json_text.dumps(rows, indent=1) if json else record_table(rows, texts=3))
        return
    found = read_chosen(prompts, choice, seed=seed)
    print(json_text.dumps(described(found), indent=1, ensure_ascii=False) if json else table(found))
