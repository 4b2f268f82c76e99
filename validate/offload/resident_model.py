"""Run the resident model: its routing, from which policies learn, and its outputs, which a replay must equal."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from common.errors import UserError
from traces.capture.capture_settings import CollectSettings
from traces.capture.collection import (
    embeddings_of,
    info_of,
    plan_of,
    probe_score,
    reproducible,
    trace_meta,
)
from traces.capture.gate_recorder import GateRecorder, requests_of
from traces.capture.generation import Generated, TokenizedPrompt, generate
from traces.capture.model_loading import LoadedModel
from traces.format.reader import Trace
from traces.format.writer import TraceWriter

Batches = Sequence[Sequence[TokenizedPrompt]]


@dataclass(frozen=True, slots=True)
class Output:
    """The output of one request: its tokens, and a hash of the logits from which each was chosen."""

    tokens: list[int]
    logits: list[bytes]


class Equal(TypedDict):
    """How much equals the resident model: outputs of requests, and the tokens in them with their logits."""

    equal_requests: int
    equal_tokens: int


def outputs_of(batch: Sequence[TokenizedPrompt], generated: Generated) -> dict[int, Output]:
    """The output of each request of a batch whose generation kept its logits."""
    assert generated.logits is not None
    answer = {}
    for row, (request, tokens) in enumerate(zip(batch, generated.tokens, strict=True)):
        rows = [one[row].contiguous().cpu().numpy() for one in generated.logits[: len(tokens)]]
        answer[request.request] = Output(
            tokens, [hashlib.blake2b(one.tobytes(), digest_size=16).digest() for one in rows]
        )
    return answer


def resident_run(
    loaded: LoadedModel,
    batches: Batches,
    config: Any,
    settings: CollectSettings,
    *,
    prompts: str,
    done: Callable[[int], object],
) -> tuple[Trace, dict[int, Output]]:
    """Run all batches with every expert resident and record them as the trace of `settings.target`.

    The model computes its experts with its class's own loop, which a replay must equal bit for bit. `prompts` is the
    name of the set of prompts. `done` is called with the number of requests that have ended.
    """
    loaded.model.set_experts_implementation("eager")
    outputs: dict[int, Output] = {}
    with reproducible(loaded.device), GateRecorder(loaded.model, lookahead=settings.recording.lookahead) as recorder:
        score = probe_score(recorder, loaded, batches[0][0].tokens)
        meta = trace_meta(settings, loaded, score, prompts=prompts)
        plan = plan_of(loaded, [request.prompt for batch in batches for request in batch])
        target = settings.target
        with TraceWriter(target.out, meta, plan=plan, resumable=False, overwrite=target.overwrite) as writer:
            for number, batch in enumerate(batches):
                generated = generate(loaded, batch, config, logits=True)
                outputs |= outputs_of(batch, generated)
                counts = [len(tokens) for tokens in generated.tokens]
                ids = [request.request for request in batch]
                recorded = requests_of(recorder.take(), counts, ids, [request.prompt.source for request in batch])
                infos = [info_of(*one, settings.recording) for one in zip(batch, counts, strict=True)]
                writer.write_part(number, infos, recorded, embeddings_of(recorded, loaded.model))
                done(len(batch))
            writer.finish()
    return Trace.open(settings.target.out), outputs


def require_equal(policy: str, expected: dict[int, Output], got: dict[int, Output]) -> Equal:
    """Compare with the resident model's outputs; a `UserError` names the first token or logits that differ."""
    compared = 0
    for request, output in got.items():
        wanted = expected[request]
        for place, (token, own) in enumerate(zip(wanted.tokens, output.tokens, strict=False)):
            compared += 1
            if token != own:
                raise UserError(
                    f"{policy}: token {place} of request {request} is {own}, the resident model's is {token}"
                )
            if wanted.logits[place] != output.logits[place]:
                raise UserError(
                    f"{policy}: the logits of token {place} of request {request} are not the resident model's"
                )
        if len(wanted.tokens) != len(output.tokens):
            counts = f"{len(output.tokens)} tokens, the resident model's {len(wanted.tokens)}"
            raise UserError(f"{policy}: request {request} has {counts}")
    return Equal(equal_requests=len(got), equal_tokens=compared)
