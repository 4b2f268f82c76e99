"""The built-in passages are long enough to continue, of the kinds of the built-in prompts, and all different."""

import re
from collections import Counter
from itertools import combinations

from tests.traces.prompts.test_built_in_prompts import KINDS, words
from traces.pocket import load
from traces.prompts.prompt import Prompt
from traces.prompts.prompt_sets import BUILT_IN, PASSAGES, SHIPPED, PromptChoice, read_prompts

TOKENS = 160  # at least


def passages(limit: int | None = None) -> list[Prompt]:
    return read_prompts(PASSAGES, PromptChoice(limit=limit)).prompts


def test_there_are_12_of_each_kind_of_the_built_in_prompts() -> None:
    assert Counter(passage.source for passage in passages()) == dict.fromkeys(KINDS, 12)


def test_a_limit_takes_of_every_kind_alike() -> None:
    assert Counter(passage.source for passage in passages(limit=24)) == dict.fromkeys(KINDS, 3)


def test_each_has_160_tokens_of_the_pocket_models_and_of_any_other() -> None:
    """Tokenizers of larger vocabularies part words at blanks too, so there are no fewer tokens than words."""
    _, tokenizer = load("pocket")
    for passage in passages():
        assert len(tokenizer(passage.text)["input_ids"]) >= TOKENS
        assert len(passage.text.split()) >= TOKENS


def test_none_is_nearly_another_or_holds_a_built_in_prompt() -> None:
    bags = [set(words(passage.text)) for passage in passages()]
    assert max(len(one & other) / len(one | other) for one, other in combinations(bags, 2)) < 0.35
    tens = Counter(ten for passage in passages() for ten in runs(passage.text))
    assert max(tens.values()) == 1
    assert not tens.keys() & {ten for prompt in read_prompts(BUILT_IN).prompts for ten in runs(prompt.text)}


def runs(text: str) -> set[tuple[str, ...]]:
    """Every ten successive words."""
    every = words(text)
    return set(zip(*(every[start:] for start in range(10)), strict=False))


def test_none_begins_like_more_than_a_few_others() -> None:
    openings = Counter(tuple(words(passage.text)[:3]) for passage in passages())
    assert max(openings.values()) <= 3


def test_the_file_is_tidy() -> None:
    """UTF-8 without byte order mark, one object per line, no blanks at the ends, no characters that show nothing."""
    content = SHIPPED[PASSAGES].read_bytes().decode("utf-8")
    assert content.endswith("}\n")
    assert not re.search("[\ufeff\ufffd\u200b\r\t]", content)
    assert all(passage.text == passage.text.strip() for passage in passages())
