"""Tokenize prompts, with the model's start token or chat template, and optionally to a fixed length."""

from collections.abc import Iterator, Sequence
from itertools import chain, count, islice
from typing import Any

from jinja2 import TemplateError

from common.errors import FieldError, UserError
from traces.capture.capture_settings import Lengths
from traces.capture.generation import TokenizedPrompt
from traces.capture.model_loading import LoadedModel
from traces.prompts.prompt import Prompt

_MARK = "\ue000"  # a private-use character: placeholder for the user's text while the template is split

# Effect of `prompt_tokens`, stored in the trace beside the number.
FIXED_LENGTH_RULE = (
    "cut at the end; a shorter prompt is continued with the text tokens of the next prompts, wrapping around at the "
    "end; start token and chat template count, and a template stays whole around the text"
)


def tokenized(
    prompts: Sequence[Prompt],
    loaded: LoadedModel,
    lengths: Lengths,
    *,
    where: object,
) -> list[TokenizedPrompt]:
    """The prompts' tokens.

    With `chat_template` a prompt becomes a single user turn, followed by the start of the assistant's turn. With
    `prompt_tokens` each request has exactly that many tokens, by `FIXED_LENGTH_RULE`. Raises `UserError`, with the line
    in `where` (the prompts' file), if a prompt and its new tokens exceed the model's context.
    """
    tokenizer = loaded.tokenizer
    if lengths.prompt_tokens is not None:
        every = _of_fixed_length(prompts, tokenizer, lengths.prompt_tokens, lengths.chat_template)
    elif lengths.chat_template:  # includes the start token
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
    """Raise `UserError`, starting with `place`, if there is no token or one outside the model's vocabulary."""
    if not tokens:
        raise UserError(f"{place}: the tokenizer returns no token for it")
    if max(tokens) >= loaded.config.vocab_size:
        raise UserError(f"{place}: the tokenizer's token {max(tokens)} is not in the model's vocabulary")


def _check_fit(tokens: Sequence[int], loaded: LoadedModel, new_tokens: int, place: str) -> None:
    longest = loaded.context
    if longest is not None and len(tokens) + new_tokens > longest:
        wanted = f"{len(tokens)} tokens and {new_tokens} new ones"
        way = "`prompt_tokens` cuts prompts, `max_prompt_chars` skips long ones"
        raise UserError(f"{place}: {wanted} exceed the model's context of {longest}; {way}")


def with_start(text: str, tokenizer: Any) -> list[int]:
    """Tokens of a text, with the special tokens that the tokenizer adds by default."""
    return list(tokenizer(text, verbose=False)["input_ids"])  # no warning: long texts are cut or refused


def text_tokens(text: str, tokenizer: Any) -> list[int]:
    """Tokens of a text, without special tokens."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _in_template(tokenizer: Any, text: str) -> str:
    turn = [{"role": "user", "content": text}]
    if not getattr(tokenizer, "chat_template", None):
        raise FieldError("chat_template", "the model's tokenizer has no chat template")
    try:
        return str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    except (TemplateError, ValueError, TypeError) as error:
        raise FieldError("chat_template", f"the template rejects a single user turn: {error}") from None


def _of_fixed_length(
    prompts: Sequence[Prompt], tokenizer: Any, length: int, chat_template: bool
) -> Iterator[list[int]]:
    """Exactly `length` tokens per prompt."""
    before, after = template_around(tokenizer) if chat_template else ([], [])
    room = length - len(before) - len(after)
    if room < 1:
        least = len(before) + len(after)
        raise FieldError("prompt_tokens", f"must be above {least}, the tokens of the chat template, not {length}")
    texts = [text_tokens(prompt.text, tokenizer) for prompt in prompts]
    if not any(texts):
        raise FieldError("prompt_tokens", "the tokenizer returns no token for any prompt")
    for number, prompt in enumerate(prompts):
        first = texts[number] if chat_template else with_start(prompt.text, tokenizer)
        further = chain.from_iterable(texts[(number + step) % len(texts)] for step in count(1))
        yield [*before, *islice(chain(first, further), room), *after]


def template_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens of the chat template before and after the user's text; raises `FieldError` without a template."""
    parts = _in_template(tokenizer, _MARK).split(_MARK)
    if len(parts) != 2:
        raise FieldError("chat_template", f"the template must contain the user's text once, not {len(parts) - 1} times")
    return text_tokens(parts[0], tokenizer), text_tokens(parts[1], tokenizer)
