"""Run prompts or texts through a Transformers MoE model and record its routing as a trace.

Prompts are grouped into batches by their lengths only, and each finished batch is one part on disk. So a resumed
collection has the same batches as an uninterrupted one. The low bits of a gate may depend on the other requests in its
batch, so an interrupted batch runs again as a whole.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import FieldError
from common.hashing import sha256_of_json
from policies.types import Float, Int, RecordedRequest
from traces.capture.capture_settings import CollectSettings, Generation, Lengths, Recording
from traces.capture.gate_recorder import GateRecorder, requests_of, requests_of_texts
from traces.capture.generation import TokenizedPrompt, generate, generation_config
from traces.capture.model_loading import LoadedModel, load
from traces.capture.model_structure import moe_blocks, shape_of
from traces.capture.prompt_tokens import FIXED_LENGTH_RULE, tokenized
from traces.capture.seeded_sampling import SeededSampling
from traces.capture.text_continuation import TEXT_RULE, divided_texts, read_through
from traces.capture.token_progress import token_bar
from traces.format.schema import RequestInfo, TraceMeta, library_versions
from traces.format.target import check_target
from traces.format.writer import TraceWriter
from traces.prompts.prompt import Prompt
from traces.prompts.prompt_sets import PromptSet

_PROBE_TOKENS = 16


def collect(settings: CollectSettings, prompts: PromptSet) -> Path:
    """Write the trace, or resume it if an earlier run with the same settings was interrupted; returns its path."""
    check_target(settings.target)
    model, target = settings.model, settings.target
    if model.threads is not None:
        torch.set_num_threads(model.threads)
    loaded = load(
        model.model,
        revision=model.revision,
        dtype=model.dtype,
        device=model.device,
        device_map=model.device_map,
        trust_remote_code=model.trust_remote_code,
    )
    texts = settings.generation.continue_text
    requests = (divided_texts if texts else tokenized)(prompts.prompts, loaded, settings.lengths, where=prompts.where)
    batches = cut_into_batches(requests, settings.generated_tokens, settings.generation, where=prompts.where)
    lookahead = settings.recording.lookahead
    check_lookahead(lookahead, loaded)
    with reproducible(loaded.device), GateRecorder(loaded.model, lookahead=lookahead) as recorder:
        score = probe_score(recorder, loaded, requests[0].tokens)
        meta = trace_meta(settings, loaded, score, prompts=prompts.name)
        plan = plan_of(loaded, prompts.prompts)
        with TraceWriter(target.out, meta, plan=plan, restart=target.restart, overwrite=target.overwrite) as writer:
            _run(batches, recorder, loaded, settings, writer)
            return writer.finish()


def cut_into_batches(
    requests: Sequence[TokenizedPrompt], new_tokens: int, generation: Generation, *, where: object
) -> list[list[TokenizedPrompt]]:
    """Group requests of similar length, to need little padding; the longest come first, to run out of memory early.

    `batch_tokens` limits the size of a batch, B × (its longest prompt or text + the new tokens). Raises `FieldError`,
    with its line in `where` (the prompts' file), for a single request that exceeds the limit.
    """
    ordered = sorted(requests, key=lambda request: (-request.length, request.request))
    batches: list[list[TokenizedPrompt]] = []
    while ordered:
        size = generation.prompts_per_batch
        if generation.batch_tokens is not None:
            places = ordered[0].length + new_tokens
            size = generation.batch_tokens // places
            if size == 0:
                line = f"{where}, line {ordered[0].prompt.line}"
                raise FieldError(
                    "batch_tokens",
                    f"must be at least {places}, the prompt and new tokens of {line}, not {generation.batch_tokens}",
                )
        batches.append(ordered[:size])
        del ordered[:size]
    return batches


def check_lookahead(distances: Sequence[int], loaded: LoadedModel) -> None:
    """Raise `FieldError` for a distance at which no layer has a router."""
    layers = len(moe_blocks(loaded.model))
    for distance in distances:
        if not 0 < distance < layers:
            what = f"must be from 1 to {layers - 1} for the {layers} MoE layers of {loaded.name}"
            raise FieldError("lookahead", f"{what}, not {distance}")


def probe_score(recorder: GateRecorder, loaded: LoadedModel, tokens: list[int]) -> str:
    """Run a few tokens and return the score function; fails, before anything is written, if recording is impossible."""
    with torch.no_grad():
        loaded.model(input_ids=torch.tensor([tokens[:_PROBE_TOKENS]], device=loaded.device))
    recorder.take()
    assert recorder.score is not None  # set by the first pass
    return "sigmoid" if recorder.score == "sigmoid" else "softmax"


def trace_meta(settings: CollectSettings, loaded: LoadedModel, score: str, *, prompts: str) -> TraceMeta:
    """The description of a trace recorded from `loaded`; `prompts` is the name of the prompt set."""
    temperature, recording = settings.generation.temperature, settings.recording
    return TraceMeta(
        kind="captured",
        model=loaded.name,
        shape=shape_of(loaded.model, name=loaded.name),
        revision=loaded.revision,
        config_sha256=loaded.config_sha256,
        dtype=loaded.dtype,
        score=score,
        lookahead=recording.lookahead,
        embedding=True,
        prompt_text=recording.keep_prompts,
        seed=None if temperature is None else settings.generation.seed,
        prompts=prompts,
        generation=_generation_of(settings, loaded),
        versions=library_versions("torch", "transformers"),
    )


def _generation_of(settings: CollectSettings, loaded: LoadedModel) -> dict[str, Any]:
    """How tokens were chosen and batches formed; options that are off by default appear only if on."""
    lengths, generation = settings.lengths, settings.generation
    described: dict[str, Any] = {
        "mode": generation.mode,
        "max_new_tokens": lengths.most_new_tokens,
        "batch_size": generation.prompts_per_batch,
        "temperature": generation.temperature,
        "eos_tokens": list(loaded.eos),
        "chat_template": lengths.chat_template,
        "attention": str(getattr(loaded.config, "_attn_implementation", None)),
        "experts": str(getattr(loaded.config, "_experts_implementation", None)),
    }
    if generation.batch_tokens is not None:
        described["batch_tokens"] = generation.batch_tokens
    if lengths.exactly:
        described["output_tokens"] = lengths.new_tokens
    if generation.continue_text:
        described |= {"prompt_tokens": lengths.prefill_tokens, "prompt_tokens_rule": TEXT_RULE}
    elif lengths.prompt_tokens is not None:
        described |= {"prompt_tokens": lengths.prompt_tokens, "prompt_tokens_rule": FIXED_LENGTH_RULE}
    if settings.model.trust_remote_code:
        described["trust_remote_code"] = True
    return described


def plan_of(loaded: LoadedModel, prompts: Sequence[Prompt]) -> Mapping[str, Any]:
    """What must be equal, besides `TraceMeta`, for a resumed run to write the same bytes; not stored in the trace."""
    return {
        "prompts": sha256_of_json([[prompt.text, prompt.source] for prompt in prompts]),
        "machine": " and ".join(sorted({_name_of(device) for device in loaded.devices})),
    }


def _name_of(device: torch.device) -> str:
    """The kind of device, on which the bits depend; the number of devices does not matter."""
    if device.type == "cpu":
        return f"{torch.backends.cpu.get_cpu_capability()} with {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _run(
    batches: Sequence[Sequence[TokenizedPrompt]],
    recorder: GateRecorder,
    loaded: LoadedModel,
    settings: CollectSettings,
    writer: TraceWriter,
) -> None:
    """Run the batches that are not on disk yet, and write each when it is done."""
    left = {number: batch for number, batch in enumerate(batches) if number not in writer.finished}
    new = settings.generated_tokens
    planned = {number: sum(new or len(one.continuation) for one in batch) for number, batch in left.items()}
    with token_bar(loaded.model, sum(planned.values()), batches=(len(batches) - len(left), len(batches))) as finished:
        for number, batch in left.items():
            recorded, counts = _record(batch, recorder, loaded, settings.lengths, settings.generation)
            infos = [info_of(request, count, settings.recording) for request, count in zip(batch, counts, strict=True)]
            writer.write_part(number, infos, recorded, embeddings_of(recorded, loaded.model))
            finished(planned[number], sum(counts))
            del recorded  # free the memory before the next batch


def _record(
    batch: Sequence[TokenizedPrompt],
    recorder: GateRecorder,
    loaded: LoadedModel,
    lengths: Lengths,
    generation: Generation,
) -> tuple[list[RecordedRequest], list[int]]:
    """Generate for one batch, or read its texts; returns the recordings and the number of new tokens per request."""
    ids, sources = [request.request for request in batch], [request.prompt.source for request in batch]
    if generation.continue_text:
        read_through(loaded, batch)
        (whole,) = recorder.take()
        recorded = requests_of_texts(whole, [len(text.tokens) for text in batch], ids, sources)
        return recorded, [len(text.continuation) for text in batch]
    config = generation_config(loaded, max_new_tokens=lengths.new_tokens, exactly=lengths.exactly)
    draw = []
    if generation.temperature is not None:
        draw.append(SeededSampling(temperature=generation.temperature, seed=generation.seed, requests=ids))
    counts = [len(tokens) for tokens in generate(loaded, batch, config, processors=draw).tokens]
    return requests_of(recorder.take(), counts, ids, sources), counts


def info_of(request: TokenizedPrompt, generated: int, recording: Recording) -> RequestInfo:
    """The row of `requests.parquet` for a request with `generated` new tokens."""
    return RequestInfo(
        request=request.request,
        source=request.prompt.source,
        prompt_tokens=len(request.tokens),
        output_tokens=generated,
        prompt_sha256=request.prompt.sha256,
        prompt=request.prompt.text if recording.keep_prompts else None,
    )


def embeddings_of(recorded: Sequence[RecordedRequest], model: Any) -> tuple[Int, Float]:
    """The distinct tokens `[n]` of the recordings and their embeddings, float16 `[n, h]`.

    Calls the embedding layer once more; its output for a token is the same in every pass.
    """
    distinct = np.unique(np.concatenate([one.token for one in recorded])).astype(np.int32)
    layer = model.get_input_embeddings()
    place = layer.weight.device
    with torch.no_grad():  # offloaded weights are on "meta": a hook of accelerate then moves the tokens
        vectors = layer(torch.from_numpy(distinct).long().to("cpu" if place.type == "meta" else place))
    return distinct, vectors.to(torch.float16).cpu().numpy()


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Make runs bitwise reproducible on one machine: CUDA needs settings, a CPU only a fixed number of threads."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
