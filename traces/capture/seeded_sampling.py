"""Sample tokens so that a request's tokens do not depend on the other requests in its batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor
from typing_extensions import override


class SeededSampling(LogitsProcessor):  # type: ignore[misc]  # its type is unknown to mypy
    """Sampling at a temperature, with a separate random generator for each request.

    The largest of `logits / temperature + Gumbel noise` is a draw from the softmax, so greedy generation with this
    processor samples. Noise is drawn on the host, to get the same draws on every device.
    """

    def __init__(self, *, temperature: float, seed: int, requests: Sequence[int]) -> None:
        self.temperature = temperature
        self.generators = [_generator(seed, request) for request in requests]

    @override
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # scores: [B, vocabulary], one row per request
        drawn = [torch.empty(scores.shape[1]).exponential_(generator=one) for one in self.generators]
        gumbel = -torch.stack(drawn).log()
        return scores / self.temperature + gumbel.to(scores.device)


def _generator(seed: int, request: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, request]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
