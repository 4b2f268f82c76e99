"""Greedy or sampled generation for a batch of prompts, shared by collection and replay."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from common.errors import UserError
from traces.capture.model_loading import LoadedModel
from traces.prompts.prompt import Prompt


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A prompt in tokens; `request` is its index among the prompts.

    When texts are continued, `continuation` has the text's own tokens after the prompt, in place of generated ones.
    """

    request: int
    prompt: Prompt
    tokens: list[int]
    continuation: Sequence[int] = ()

    @property
    def length(self) -> int:
        """Tokens of the prompt and its continuation."""
        return len(self.tokens) + len(self.continuation)


@dataclass(frozen=True, slots=True)
class Generated:
    """Output of a batch: for each request its new tokens, including the end-of-sequence token."""

    tokens: list[list[int]]
    logits: list[Tensor] | None  # on request: `[B, vocabulary]` float32 per pass, also of finished requests


def left_padded(batch: Sequence[TokenizedPrompt], padding: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids `[B, S]`, padded on the left, and the mask of real tokens `[B, S]`."""
    width = max(len(request.tokens) for request in batch)
    blank = [width - len(request.tokens) for request in batch]
    tokens = [[padding] * spare + request.tokens for spare, request in zip(blank, batch, strict=True)]
    mask = [[0] * spare + [1] * (width - spare) for spare in blank]
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)


def padding_token(loaded: LoadedModel) -> int:
    """The token to pad with; any will do, since its results are dropped."""
    own: int | None = loaded.tokenizer.pad_token_id
    return own if own is not None else (loaded.eos or (0,))[0]


def generation_config(loaded: LoadedModel, *, max_new_tokens: int, exactly: bool = False) -> Any:
    """Greedy until end of sequence; ignores the checkpoint's generation config.

    With `exactly`, end-of-sequence tokens are never chosen, so that each request generates `max_new_tokens`.
    """
    config: Any = GenerationConfig  # has no annotations
    return config(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        min_new_tokens=max_new_tokens if exactly else None,
        eos_token_id=list(loaded.eos) or None,
        pad_token_id=padding_token(loaded),
        disable_compile=True,  # hooks must run
    )


def until_end(tokens: Sequence[int], ends: Sequence[int]) -> int:
    """Number of tokens up to and including the first one in `ends`."""
    return next((count for count, token in enumerate(tokens, start=1) if token in ends), len(tokens))


def generate(
    loaded: LoadedModel,
    batch: Sequence[TokenizedPrompt],
    config: Any,
    *,
    processors: Sequence[LogitsProcessor] = (),
    logits: bool = False,
) -> Generated:
    """Generate for one batch; `config` comes from `generation_config` and becomes the model's own.

    `processors` change the scores from which tokens are chosen. Raises `UserError` if the batch does not fit into
    memory.
    """
    loaded.model.generation_config = config
    tokens, mask = left_padded(batch, config.pad_token_id, loaded.device)
    details = {"output_logits": True, "return_dict_in_generate": True} if logits else {}
    try:
        output = loaded.model.generate(
            input_ids=tokens, attention_mask=mask, logits_processor=LogitsProcessorList(processors), **details
        )
    except torch.OutOfMemoryError as error:
        what = f"a batch of {len(batch)} prompts of up to {tokens.shape[1]} tokens does not fit into the memory"
        raise UserError(f"{what} of {loaded.device}; make batches smaller") from error
    sequences = output.sequences if logits else output
    ends = config.eos_token_id or ()
    rows = sequences[:, tokens.shape[1] :].tolist()
    return Generated(
        tokens=[row[: until_end(row, ends)] for row in rows],
        logits=list(output.logits) if logits else None,
    )
