"""`finemoe traces prompts`: list the prompt sets, or describe one."""

import json as json_text
from typing import Annotated

from cyclopts import Parameter

from common.applications import OUTPUT, PROMPTS, under
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
    """List the prompt sets, or describe one: sources, lengths and examples.

    Parameters
    ----------
    prompts
        A name from the list (Hugging Face sets also as NAME@REVISION), a file or a folder. Default: print the list.
    seed
        Random seed for drawing the sample.
    json
        Print JSON instead of tables.
    """
    if prompts is None:
        rows = known_sets()
        print(json_text.dumps(rows, indent=1) if json else record_table(rows, texts=3))
        return
    found = read_chosen(prompts, choice, seed=seed)
    print(json_text.dumps(described(found), indent=1, ensure_ascii=False) if json else table(found))
