"""Prompts as tokens that a model takes: with its start token or its chat template, and of a fixed length if asked."""

from collections.abc import Iterator, Sequence
from itertools import chain, count, islice
from typing import Any

from jinja2 import TemplateError

from common.errors import FieldError, UserError
from traces.capture.capture_settings import Lengths
from traces.capture.generation import TokenizedPrompt
from traces.capture.model_loading import LoadedModel
from traces.prompts.prompt import Prompt

_MARK = "\ue000"  # a character for private use: it stands for the user's text while the template is taken apart

# What `prompt_tokens` does, as it is recorded beside the number.
FIXED_LENGTH_RULE = (
    "cut at the end; a shorter prompt is continued with the text tokens of those that follow, the first after the last;"
    " start token and chat template count, and a template stays whole around the text"
)


def tokenized(
    prompts: Sequence[Prompt],
    loaded: LoadedModel,
    lengths: Lengths,
    *,
    where: object,
) -> list[TokenizedPrompt]:
    """The prompts' tokens; one that does not fit into the model's context with what it is to generate is an error.

    With `chat_template` a prompt is the user's one turn, followed by the start of the assistant's. With `prompt_tokens`
    each request has exactly so many tokens, by `FIXED_LENGTH_RULE`. A `UserError` names the line of `where`, the
    prompts' file.
    """
    tokenizer = loaded.tokenizer
    if lengths.prompt_tokens is not None:
        every = _of_fixed_length(prompts, tokenizer, lengths.prompt_tokens, lengths.chat_template)
    elif lengths.chat_template:  # it brings its own start token
        every = (text_tokens(_in_template(tokenizer, prompt.text), tokenizer) for prompt in prompts)
    else:
        every = (with_start(prompt.text, tokenizer) for prompt in prompts)
    requests = []
    for request, (prompt, tokens) in enumerate(zip(prompts, every, strict=True)):
        place = f"{where}: line {prompt.line}, field prompt"
        check_known(tokens, loaded, place)
        _check_fit(tokens, loaded, lengths.new_tokens, place)
        requests.append(TokenizedPrompt(request, prompt, tokens))
    return requests


def check_known(tokens: Sequence[int], loaded: LoadedModel, place: str) -> None:
    """A `UserError` that begins with `place` if there is no token, or one that the model does not know."""
    if not tokens:
        raise UserError(f"{place}: the tokenizer makes no token of it")
    if max(tokens) >= loaded.config.vocab_size:
        raise UserError(f"{place}: the tokenizer's token {max(tokens)} is not in the model's vocabulary")


def _check_fit(tokens: Sequence[int], loaded: LoadedModel, new_tokens: int, place: str) -> None:
    longest = loaded.context
    if longest is not None and len(tokens) + new_tokens > longest:
        wanted = f"{len(tokens)} tokens and {new_tokens} new ones"
        way = "`prompt_tokens` cuts prompts, `max_prompt_chars` leaves long ones out"
        raise UserError(f"{place}: {wanted} exceed the model's context of {longest}; {way}")


def with_start(text: str, tokenizer: Any) -> list[int]:
    """A text's tokens, with the special tokens that the tokenizer adds by itself."""
    return list(tokenizer(text)["input_ids"])


def text_tokens(text: str, tokenizer: Any) -> list[int]:
    """A text's tokens, without special ones."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _in_template(tokenizer: Any, text: str) -> str:
    turn = [{"role": "user", "content": text}]
    if not getattr(tokenizer, "chat_template", None):
        raise FieldError("chat_template", "the model's tokenizer has no chat template")
    try:
        return str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    except (TemplateError, ValueError, TypeError) as error:
        raise FieldError("chat_template", f"the template refuses a single turn of a user: {error}") from None


def _of_fixed_length(
    prompts: Sequence[Prompt], tokenizer: Any, length: int, chat_template: bool
) -> Iterator[list[int]]:
    """Per prompt exactly `length` tokens."""
    before, after = template_around(tokenizer) if chat_template else ([], [])
    room = length - len(before) - len(after)
    if room < 1:
        least = len(before) + len(after)
        raise FieldError("prompt_tokens", f"the chat template alone has {least} tokens, value {length}")
    texts = [text_tokens(prompt.text, tokenizer) for prompt in prompts]
    if not any(texts):
        raise FieldError("prompt_tokens", f"the tokenizer makes no token of any prompt, value {length}")
    for number, prompt in enumerate(prompts):
        first = texts[number] if chat_template else with_start(prompt.text, tokenizer)
        further = chain.from_iterable(texts[(number + step) % len(texts)] for step in count(1))
        yield [*before, *islice(chain(first, further), room), *after]


def template_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens of the chat template before and after the user's text; a `FieldError` without such a template."""
    parts = _in_template(tokenizer, _MARK).split(_MARK)
    if len(parts) != 2:
        raise FieldError("chat_template", f"the template has the user's text {len(parts) - 1} times, not once")
    return text_tokens(parts[0], tokenizer), text_tokens(parts[1], tokenizer)
