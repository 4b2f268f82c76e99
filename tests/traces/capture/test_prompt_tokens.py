"""Prompts become the tokens that the options ask for: start token, chat template, fixed length."""

import random
from typing import Any

import pytest

from common.errors import UserError
from tests.support.tiny_models import BOS, VOCABULARY, tiny_tokenizer
from traces.capture.capture_settings import Lengths
from traces.capture.generation import TokenizedPrompt
from traces.capture.prompt_tokens import tokenized
from traces.prompts.prompt import Prompt

TEMPLATE = (
    "<s> w10 {% for message in messages %}{{ message['content'] }} {% endfor %}w11"
    "{% if add_generation_prompt %} w12 w13{% endif %}"
)


class Model:
    """As much of a loaded model as is asked for."""

    def __init__(self, *, template: str | None = None, context: int = 128) -> None:
        self.tokenizer = tiny_tokenizer()
        self.tokenizer.chat_template = template
        self.config = self
        self.vocab_size = VOCABULARY
        self.context = context


def prompts_of(*texts: str) -> list[Prompt]:
    return [Prompt(text=text, source="s", line=place) for place, text in enumerate(texts, start=1)]


def tokens_of(model: Any, *texts: str, **options: Any) -> list[list[int]]:
    found: list[TokenizedPrompt] = tokenized(
        prompts_of(*texts), model, Lengths(max_new_tokens=4, **options), where="p.txt"
    )
    assert [one.request for one in found] == list(range(len(texts)))
    return [one.tokens for one in found]


def test_a_prompt_has_the_tokenizers_start_token() -> None:
    assert tokens_of(Model(), "w20 w21", "w22") == [[BOS, 20, 21], [BOS, 22]]


def test_a_chat_template_is_one_turn_of_the_user_and_brings_the_start_token_once() -> None:
    found = tokens_of(Model(template=TEMPLATE), "w20 w21", "w22", chat_template=True)
    assert found == [[BOS, 10, 20, 21, 11, 12, 13], [BOS, 10, 22, 11, 12, 13]]


def test_a_template_is_not_used_unasked() -> None:
    assert tokens_of(Model(template=TEMPLATE), "w20") == [[BOS, 20]]


def test_a_long_prompt_is_cut_and_a_short_one_goes_on_with_those_that_follow() -> None:
    texts = ("w20 w21", "w30", "w40 w41 w42 w43 w44")
    assert tokens_of(Model(), *texts, prompt_tokens=5) == [
        [BOS, 20, 21, 30, 40],
        [BOS, 30, 40, 41, 42],
        [BOS, 40, 41, 42, 43],
    ]
    assert tokens_of(Model(), *texts, prompt_tokens=12)[2] == [BOS, 40, 41, 42, 43, 44, 20, 21, 30, 40, 41, 42]
    assert tokens_of(Model(), "w20 w21", prompt_tokens=6) == [[BOS, 20, 21, 20, 21, 20]]


def test_a_template_stays_whole_around_a_text_of_fixed_length() -> None:
    texts = ("w20 w21", "w30", "w40 w41 w42 w43 w44")
    assert tokens_of(Model(template=TEMPLATE), *texts, prompt_tokens=8, chat_template=True) == [
        [BOS, 10, 20, 21, 30, 11, 12, 13],
        [BOS, 10, 30, 40, 41, 11, 12, 13],
        [BOS, 10, 40, 41, 42, 11, 12, 13],
    ]


@pytest.mark.parametrize("chat_template", [False, True])
def test_every_prompt_has_exactly_the_length_asked_for(chat_template: bool) -> None:
    draw = random.Random(5)
    texts = [" ".join(f"w{draw.randint(20, 198)}" for _ in range(draw.randint(1, 60))) for _ in range(9)]
    for length in (6, 37, 100):
        found = tokens_of(Model(template=TEMPLATE), *texts, prompt_tokens=length, chat_template=chat_template)
        assert [len(tokens) for tokens in found] == [length] * 9


def test_a_prompt_of_exactly_the_length_is_left_as_it_is() -> None:
    assert tokens_of(Model(), "w20 w21", "w30", prompt_tokens=3)[0] == tokens_of(Model(), "w20 w21")[0]
    with_template = Model(template=TEMPLATE)
    whole = tokens_of(with_template, "w20 w21", chat_template=True)
    assert tokens_of(with_template, "w20 w21", prompt_tokens=len(whole[0]), chat_template=True) == whole


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (Model(), {"chat_template": True}, "chat_template: the model's tokenizer has no chat template"),
        (
            Model(template="{{ raise_exception('a system turn is needed') }}"),
            {"chat_template": True},
            "chat_template: the template rejects a single user turn: a system turn is needed",
        ),
        (
            Model(template=TEMPLATE),
            {"chat_template": True, "prompt_tokens": 5},
            "prompt_tokens: must be above 5, the tokens of the chat template, not 5",
        ),
        (
            Model(template="{{ messages[0]['content'] }} {{ messages[0]['content'] }}"),
            {"chat_template": True, "prompt_tokens": 9},
            "chat_template: the template must contain the user's text once, not 2 times",
        ),
        (Model(context=20), {"prompt_tokens": 17}, "p.txt: line 1, field prompt: 17 tokens and 4 new ones exceed"),
    ],
)
def test_impossible_options_are_reported_in_one_line(model: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as reported:
        tokens_of(model, "w20 w21", **options)
    assert str(reported.value).startswith(said)
    assert "\n" not in str(reported.value)
