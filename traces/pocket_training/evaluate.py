"""Measure a model: held-out loss, routing statistics, and whether fine-grained prediction beats coarse."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from policies.types import Float
from traces.analysis.entropy import entropy_bits
from traces.analysis.iterations import top
from traces.capture.gate_recorder import GateRecorder
from traces.pocket import Model, Tokenizer
from traces.pocket_training.corpus import Corpus
from traces.pocket_training.recall import Recall, Routing, expert_load, recall, same_token_by_chance, sample
from traces.pocket_training.tokenizer import END_ID

LONGEST = 512  # tokens read of a held-out text
PROMPT = 16  # tokens not predicted in the recall check: the length of a short prompt
DISTANCES = (1, 2, 3, 4, 6)
STORED = 1000  # maps in the store
_SEED = 0  # for drawing them


@dataclass(frozen=True, slots=True)
class Reading:
    """Loss and routing of a model on one text of `T` tokens."""

    loss: float  # summed over the T − 1 predicted tokens, nats
    predicted: int
    routing: Routing


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Measurements of one model on held-out text."""

    loss: dict[str, float]  # domain -> nats per token; "all" over all tokens
    tokens: dict[str, int]
    entropy: Float  # [L] bits of a single token's gate, mean over tokens
    request_entropy: Float  # [L] bits of a text's mean gate, mean over texts
    load: Float  # [L, J] share of each expert in the layer's assignments
    recalls: list[Recall]
    same_token_by_chance: float

    @property
    def most_entropy(self) -> float:
        """Entropy of a uniform gate in bits."""
        return math.log2(self.load.shape[1])


def evaluate(model: Model, tokenizer: Tokenizer, corpus: Corpus) -> Evaluation:
    """Measure a model on all held-out texts; for the recall, every other text of a domain is stored.

    Memory holds the maps of all held-out tokens as float16, L·J·2 bytes each.
    """
    distances = [distance for distance in DISTANCES if distance < model.config.num_hidden_layers]
    loss: dict[str, float] = {}
    tokens: dict[str, int] = {}
    stored: list[Routing] = []
    requests: list[Routing] = []
    for domain in sorted({piece.domain for piece in corpus.pieces}):
        readings = read(model, tokenizer, corpus.texts("held-out", domain), distances=distances)
        tokens[domain] = sum(reading.predicted for reading in readings)
        loss[domain] = sum(reading.loss for reading in readings) / tokens[domain]
        long_enough = [reading.routing for reading in readings if len(reading.routing.token) > PROMPT]
        stored += long_enough[0::2]
        requests += long_enough[1::2]
    loss["all"] = sum(loss[domain] * tokens[domain] for domain in tokens) / sum(tokens.values())
    tokens["all"] = sum(tokens.values())
    everything = stored + requests
    return Evaluation(
        loss=loss,
        tokens=tokens,
        entropy=gate_entropy(everything),
        request_entropy=request_entropy(everything),
        load=expert_load(everything),
        recalls=recall(stored, requests, distances, STORED, _SEED),
        same_token_by_chance=same_token_by_chance(sample(stored, STORED, _SEED), requests),
    )


def read(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    prompt: int = PROMPT,
    distances: Sequence[int] = (),
) -> list[Reading]:
    """Loss and routing of each text by itself, with `<|endoftext|>` at the end and cut at `LONGEST` tokens."""
    rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [read_tokens(model, [*row, END_ID][:LONGEST], prompt=prompt, distances=distances) for row in rows]


def read_tokens(model: Model, ids: Sequence[int], *, prompt: int, distances: Sequence[int] = ()) -> Reading:
    """Loss and routing of one sequence of token ids; the recall check does not predict the first `prompt` tokens.

    `distances` are those of the lookahead. The routing equals that in a trace of this pass.
    """
    tokens = torch.tensor([list(ids)])
    with torch.inference_mode(), GateRecorder(model, lookahead=distances) as recorder:
        output = model(input_ids=tokens, use_cache=False)
        loss = functional.cross_entropy(output.logits[0, :-1].float(), tokens[0, 1:], reduction="sum")
    (forward_pass,) = recorder.take()
    experts = forward_pass.experts[0]
    top_k = experts.shape[2]
    ahead = {d: top(gate[0, :, :-d].astype(np.float32), top_k) for d, gate in forward_pass.lookahead.items()}
    routing = Routing(forward_pass.token[0], forward_pass.gate[0], experts, prompt, ahead)
    return Reading(loss.item(), len(ids) - 1, routing)


def gate_entropy(texts: Sequence[Routing]) -> Float:
    """`[L]`: entropy of the gate in bits, mean over all tokens."""
    bits: Float = np.concatenate([entropy_bits(text.gate) for text in texts]).mean(axis=0)
    return bits


def request_entropy(texts: Sequence[Routing]) -> Float:
    """`[L]`: entropy of a text's mean gate in bits, mean over texts."""
    bits: Float = np.mean([entropy_bits(text.gate.mean(axis=0, dtype=np.float64)) for text in texts], axis=0)
    return bits
