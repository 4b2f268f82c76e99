"""What tests of the recorder share: models by family, a spy inside their routers and experts, and what it implies."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch

from policies.types import RecordedRequest
from tests.support.tiny_models import PAD, SETTINGS, tiny_model
from traces.capture.gate_recorder import GateRecorder, requests_of
from traces.capture.model_structure import moe_blocks

UNSUPPORTED = {"llama", "jetmoe", "llama4_text"}
FAMILIES = sorted(set(SETTINGS) - UNSUPPORTED)
SIGMOID = {
    "deepseek_v3",
    "glm4_moe",
    "minimax_m2",
    "lfm2_moe",
    "dots1",
    "afmoe",
    "glm4_moe_lite",
    "exaone_moe",
    "solar_open",
}
NOT_A_MATRIX = {"gemma4_text"}  # its router normalises and scales before its matrix
BIASED = {
    "deepseek_v3",
    "glm4_moe",
    "minimax_m2",
    "lfm2_moe",
    "dots1",
    "afmoe",
    "ernie4_5_moe",
    "glm4_moe_lite",
    "exaone_moe",
    "solar_open",
}
NEW_TOKENS = 4

model_of = cache(tiny_model)


@contextmanager
def spied(model: Any) -> Iterator[dict[str, dict[int, list[Any]]]]:
    """What routers and experts receive, seen from inside by other means than hooks: their `forward` is replaced."""
    seen: dict[str, dict[int, list[Any]]] = {"hidden": defaultdict(list), "indices": defaultdict(list)}
    blocks = moe_blocks(model)

    def listen(layer: int, module: Any, kind: str, place: int) -> None:
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            seen[kind][layer].append((*args, *kwargs.values())[place].clone())
            return original(*args, **kwargs)

        module.forward = forward

    for layer, block in enumerate(blocks):
        listen(layer, block.router, "hidden", 0)
        listen(layer, block.experts, "indices", 1)
    try:
        yield seen
    finally:
        for block in blocks:
            del block.router.forward, block.experts.forward


def matrix_of(router: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The router's weights `[J, h]` and bias."""
    weight = next(value for value in router.parameters() if value.dim() == 2)
    return weight, router.bias if isinstance(getattr(router, "bias", None), torch.Tensor) else None


def expected_gate(router: Any, hidden: torch.Tensor, *, sigmoid: bool) -> np.ndarray:
    """`[T, J]`, worked out from the hidden state in double precision."""
    weight, bias = matrix_of(router)
    logits = hidden.reshape(-1, hidden.shape[-1]).double() @ weight.detach().double().T
    logits = logits if bias is None else logits + bias.detach().double()
    if sigmoid:
        score = 1 / (1 + torch.exp(-logits))
        return (score / score.sum(-1, keepdim=True)).numpy()
    return (torch.exp(logits) / torch.exp(logits).sum(-1, keepdim=True)).numpy()


def top_k_of(family: str) -> int:
    """K as the family's settings name it."""
    settings = SETTINGS[family]
    named = {**settings, **settings.get("ffn_config", {})}
    (key,) = named.keys() & {"num_experts_per_tok", "moe_k", "moe_topk", "moe_top_k", "top_k_experts"}
    return int(named[key])


def chosen(family: str, router: Any, block: Any, hidden: torch.Tensor) -> np.ndarray:
    """`[T, K]` ascending: what the family's paper has its router choose, from the hidden state in double precision.

    DeepSeek-V2 (eq. 9 and §2.1.3): the groups with the best experts, then the best of these groups. V3 (eq. 13 to 16)
    and its kin: sigmoids plus a bias choose, and groups count by their two best.
    """
    weight, bias = matrix_of(router)
    logits = hidden.reshape(-1, hidden.shape[-1]).double() @ weight.detach().double().T
    logits = logits if bias is None else logits + bias.detach().double()
    score = torch.sigmoid(logits) if family in SIGMOID else torch.softmax(logits, -1)
    corrections = [
        value
        for key, value in (*block.named_parameters(), *block.named_buffers())
        if "correction_bias" in key or "expert_bias" in key
    ]
    assert len(corrections) == (family in BIASED), "a family chooses by one bias or by none"
    for correction in corrections:
        assert correction.abs().max() > 0, "a bias of zero would prove nothing"
        score = score + correction.detach().double().flatten()
    groups = SETTINGS[family].get("n_group", 1)
    top_k = top_k_of(family)
    rows = []
    for row in score.tolist():
        size = len(row) // groups
        members = [range(group * size, (group + 1) * size) for group in range(groups)]
        if groups > 1:
            counted = 1 if family == "deepseek_v2" else 2
            worth = [sum(sorted((row[expert] for expert in group), reverse=True)[:counted]) for group in members]
            kept = sorted(range(groups), key=lambda group: -worth[group])[: SETTINGS[family]["topk_group"]]
            members = [members[group] for group in kept]
        allowed = [expert for group in members for expert in group]
        rows.append(sorted(sorted(allowed, key=lambda expert: -row[expert])[:top_k]))
    return np.array(rows)


def generate(model: Any, tokens: torch.Tensor, mask: torch.Tensor | None, **keywords: Any) -> torch.Tensor:
    keywords = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": PAD} | keywords
    output: torch.Tensor = model.generate(input_ids=tokens, attention_mask=mask, **keywords)
    return output


def record(model: Any, tokens: torch.Tensor, mask: torch.Tensor, **keywords: Any) -> list[RecordedRequest]:
    """Recordings of a batch in which nothing ends early."""
    with GateRecorder(model, **keywords) as recorder:
        generate(model, tokens, mask)
    rows = range(len(tokens))
    return requests_of(recorder.take(), [NEW_TOKENS] * len(rows), rows, [""] * len(rows))
