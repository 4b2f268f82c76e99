"""The built-in prompts are many, of many kinds, and all different."""

import re
from collections import Counter
from itertools import combinations

from traces.prompts.prompt import Prompt
from traces.prompts.prompt_sets import BUILT_IN, SHIPPED, PromptChoice, read_prompts

KINDS = {"code", "maths", "dialogue", "prose", "technical", "translation", "summary", "lists"}


def prompts(limit: int | None = None) -> list[Prompt]:
    return read_prompts(BUILT_IN, PromptChoice(limit=limit)).prompts


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def test_there_are_26_of_each_of_eight_kinds() -> None:
    assert Counter(prompt.source for prompt in prompts()) == dict.fromkeys(KINDS, 26)


def test_a_limit_takes_of_every_kind_alike() -> None:
    assert Counter(prompt.source for prompt in prompts(limit=64)) == dict.fromkeys(KINDS, 8)


def test_none_is_nearly_another() -> None:
    bags = [set(words(prompt.text)) for prompt in prompts()]
    alike = max(len(one & other) / len(one | other) for one, other in combinations(bags, 2))
    assert alike < 0.3


def test_none_begins_like_more_than_a_few_others() -> None:
    openings = Counter(tuple(words(prompt.text)[:4]) for prompt in prompts())
    assert max(openings.values()) <= 4


def test_their_lengths_vary() -> None:
    lengths = [len(prompt.text) for prompt in prompts()]
    assert min(lengths) >= 60
    assert max(lengths) <= 1000
    assert max(lengths) > 8 * min(lengths)


def test_what_is_to_be_summarised_is_there() -> None:
    for prompt in prompts():
        if prompt.source == "summary":
            task, _, passage = prompt.text.partition("\n\n")
            assert len(task.split()) < 30
            assert 80 <= len(passage.split()) <= 150


def test_the_file_is_tidy() -> None:
    """UTF-8 without byte order mark, one object per line, no blanks at the ends, no characters that show nothing."""
    content = SHIPPED[BUILT_IN].read_bytes().decode("utf-8")
    assert content.endswith("}\n")
    assert not re.search("[\ufeff\ufffd\u00a0\u200b\r\t]", content)
    assert all(prompt.text == prompt.text.strip() for prompt in prompts())
