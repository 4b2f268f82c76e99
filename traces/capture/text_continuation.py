"""Record texts instead of generations: the first tokens are the prefill, each later token is a decode step.

In a causal model the routing of a token does not depend on later tokens. So one forward pass over a whole text gives
the same routing as decoding it step by step with the text's own tokens.
"""

import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from common.errors import FieldError, UserError
from traces.capture.capture_settings import Lengths
from traces.capture.generation import TokenizedPrompt, padding_token
from traces.capture.model_loading import LoadedModel
from traces.capture.prompt_tokens import check_known, template_around, text_tokens, with_start
from traces.prompts.prompt import Prompt

# How a text is divided, stored in the trace beside the numbers.
TEXT_RULE = (
    "the first prompt_tokens of a text are its prefill, start token or the chat template's beginning of a user's turn"
    " included; each token after them is a decode step, except the last, which stands for the one that is generated"
    " last and never computed; shorter texts are left out"
)


def divided_texts(
    texts: Sequence[Prompt], loaded: LoadedModel, lengths: Lengths, *, where: object
) -> list[TokenizedPrompt]:
    """Tokenize texts and divide each into prefill and continuation by `TEXT_RULE`.

    With `chat_template` a text is a user turn that continues to the end. A continuation has as many tokens as `lengths`
    allow, by default the whole text. Texts that are too short are skipped, with a note on stderr. Raises `UserError`,
    with the line in `where` (the texts' file), if the model cannot process a text or one pass would differ from
    decoding; also if all texts are too short.
    """
    prefill, most = lengths.prefill_tokens, lengths.most_new_tokens
    least = prefill + (most if most is not None and lengths.exactly else 1)
    before = template_around(loaded.tokenizer)[0] if lengths.chat_template else None
    if before and len(before) >= prefill:
        raise FieldError(
            "prompt_tokens", f"must be above {len(before)}, the tokens of the chat template, not {prefill}"
        )
    requests: list[TokenizedPrompt] = []
    too_short: dict[int, int] = {}  # line: tokens
    for text in texts:
        if before is None:
            tokens = with_start(text.text, loaded.tokenizer)
        else:
            tokens = [*before, *text_tokens(text.text, loaded.tokenizer)]
        if len(tokens) < least:
            too_short[text.line] = len(tokens)
            continue
        kept = tokens if most is None else tokens[: prefill + most]
        place = f"{where}: line {text.line}, field prompt"
        check_known(kept, loaded, place)
        _check_length(len(kept), prefill, loaded, place)
        requests.append(TokenizedPrompt(len(requests), text, kept[:prefill], kept[prefill:]))
    if too_short:
        line, length = max(too_short.items(), key=lambda one: one[1])
        parts = f"(prefill {prefill}, continuation {least - prefill})"
        if not requests:
            raise UserError(
                f"{where}: none of the {len(texts)} texts has {least} tokens {parts}; the longest, in line {line}, has "
                f"{length}. In a plain file each line is a text; JSON Lines allow texts of several lines"
            )
        skipped = f"skipped {len(too_short)} of {len(texts)} texts with fewer than {least} tokens {parts}"
        print(f"{where}: {skipped}", file=sys.stderr)
    return requests


def _check_length(length: int, prefill: int, loaded: LoadedModel, place: str) -> None:
    """Raise `UserError` unless one pass over `length` tokens equals a prefill followed by decoding."""
    way = "`max_new_tokens` limits the tokens per text"
    if loaded.context is not None and length > loaded.context:
        raise UserError(f"{place}: {length} tokens exceed the model's context of {loaded.context}; {way}")
    for kind, limit in rotary_limits(loaded.config).items():
        if length > limit and (kind == "dynamic" or prefill <= limit):
            what = f"beyond {limit} tokens the model's rotary embedding ({kind}) changes with the length"
            raise UserError(f"{place}: {what}, so one pass over {length} tokens differs from decoding them; {way}")


def rotary_limits(config: Any) -> Mapping[str, int]:
    """Kinds of rotary embedding in use that depend on sequence length, with the length up to which they do not.

    "longrope" has two sets of frequencies, for sequences below and above the limit; "dynamic" has a different set for
    each length above the limit.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    every = (
        parameters.values()
        if parameters and all(isinstance(one, Mapping) for one in parameters.values())
        else [parameters]
    )
    return {
        one["rope_type"]: one.get("original_max_position_embeddings", config.max_position_embeddings)
        for one in every
        if one.get("rope_type") in ("longrope", "dynamic")
    }


def read_through(loaded: LoadedModel, batch: Sequence[TokenizedPrompt]) -> None:
    """One forward pass over the texts of a batch, each without its last token.

    Padding is at the end, where no token can attend to it. Raises `UserError` if the batch does not fit into memory.
    """
    texts = [[*text.tokens, *text.continuation][:-1] for text in batch]
    width = max(map(len, texts))
    padding = padding_token(loaded)
    tokens = torch.tensor([text + [padding] * (width - len(text)) for text in texts], device=loaded.device)
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=loaded.device)
    options: dict[str, Any] = {"use_cache": False}
    if "logits_to_keep" in inspect.signature(loaded.model.forward).parameters:
        options["logits_to_keep"] = 1  # logits of all tokens would take more memory than everything else
    try:
        with torch.no_grad():
            loaded.model(input_ids=tokens, attention_mask=mask, **options)
    except torch.OutOfMemoryError as error:
        what = f"a batch of {len(batch)} texts of up to {width} tokens does not fit into the memory"
        raise UserError(f"{what} of {loaded.device}; make batches smaller") from error
