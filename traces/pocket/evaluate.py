"""Measure a pocket model: held-out loss, what its routers do, and whether fine-grained prediction beats coarse."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from policies.types import Float
from traces.pocket.build import Model
from traces.pocket.corpus import Corpus
from traces.pocket.recall import Recall, Routing, recall
from traces.pocket.tokenizer import END_ID, Tokenizer

LONGEST = 512  # tokens of a held-out text that are read
PROMPT = 16  # of them are not predicted in the recall check: the length of a short prompt
DISTANCES = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Reading:
    """A model's reading of one text of `T` tokens."""

    loss: float  # summed over the T − 1 predicted tokens, nats
    predicted: int
    routing: Routing


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that is measured of one model on held-out text."""

    loss: dict[str, float]  # domain -> nats per token; "all" over all tokens
    tokens: dict[str, int]
    entropy: list[float]  # bits, per layer, mean over tokens
    load: Float  # [L, J] share of the layer's assignments that each expert got
    recalls: list[Recall]

    @property
    def most_entropy(self) -> float:
        """Bits of a uniform gate."""
        return math.log2(self.load.shape[1])


def evaluate(model: Model, tokenizer: Tokenizer, corpus: Corpus) -> Evaluation:
    """Read all held-out texts once; every other text of a domain is stored, the rest are the requests of the recall."""
    loss: dict[str, float] = {}
    tokens: dict[str, int] = {}
    stored: list[Routing] = []
    requests: list[Routing] = []
    for domain in sorted({piece.domain for piece in corpus.pieces}):
        readings = read(model, tokenizer, corpus.texts("held-out", domain))
        tokens[domain] = sum(reading.predicted for reading in readings)
        loss[domain] = sum(reading.loss for reading in readings) / tokens[domain]
        long_enough = [reading.routing for reading in readings if len(reading.routing.gate) > PROMPT]
        stored += long_enough[0::2]
        requests += long_enough[1::2]
    loss["all"] = sum(loss[domain] * tokens[domain] for domain in tokens) / sum(tokens.values())
    tokens["all"] = sum(tokens.values())
    everything = stored + requests
    return Evaluation(
        loss=loss,
        tokens=tokens,
        entropy=gate_entropy(everything),
        load=expert_load(everything),
        recalls=[recall(stored, requests, distance) for distance in DISTANCES],
    )


def read(model: Model, tokenizer: Tokenizer, texts: Sequence[str], prompt: int = PROMPT) -> list[Reading]:
    """Loss and routing of every text on its own, closed by `<|endoftext|>` and cut at `LONGEST` tokens."""
    readings = []
    for text in texts:
        ids = [*tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], END_ID][:LONGEST]
        readings.append(read_tokens(model, ids, prompt))
    return readings


def read_tokens(model: Model, ids: Sequence[int], prompt: int) -> Reading:
    """Loss and routing of one sequence of token ids; `prompt` of them will not be predicted in a recall check.

    The executed experts are taken as the K most probable, which holds for the families that `build.py` knows.
    """
    tokens = torch.tensor([list(ids)])
    with torch.inference_mode():
        output = model(input_ids=tokens, output_router_logits=True, use_cache=False)
        loss = functional.cross_entropy(output.logits[0, :-1].float(), tokens[0, 1:], reduction="sum")
        gate = torch.stack(output.router_logits, dim=1).float().softmax(-1)  # [T, L, J]
        experts = gate.topk(model.config.num_experts_per_tok, dim=-1).indices
    return Reading(loss.item(), len(ids) - 1, Routing(gate.numpy(), experts.numpy(), prompt))


def gate_entropy(routings: Sequence[Routing]) -> list[float]:
    """Mean entropy of the gate distribution, bits per layer."""
    gates = np.concatenate([routing.gate for routing in routings])  # [N, L, J]
    bits = -(gates * np.log2(np.maximum(gates, 1e-12))).sum(-1).mean(0)
    return [float(value) for value in bits]


def expert_load(routings: Sequence[Routing]) -> Float:
    """`[L, J]`: the share of each layer's T·K assignments that an expert got."""
    experts = np.concatenate([routing.experts for routing in routings])  # [N, L, K]
    count = routings[0].gate.shape[2]
    return np.stack([np.bincount(layer.ravel(), minlength=count) / layer.size for layer in experts.swapaxes(0, 1)])
