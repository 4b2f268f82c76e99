"""A collection records what the model did, and a resumed one equals an uninterrupted one."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants as hub_constants
from transformers import AutoModelForCausalLM

from tests.support.collect_helpers import (
    BATCH,
    NEW_TOKENS,
    PROMPTS,
    collected,
    command,
    content,
    numbers,
    texts_of,
    write_prompts,
)
from tests.support.slow_cases import slow_but
from tests.support.tiny_models import PAD, save_tiny
from traces.__main__ import main
from traces.capture.seeded_sampling import SeededSampling
from traces.format.checks import check
from traces.format.reader import Trace
from traces.format.writer import TraceWriter
from traces.pocket import DEMO_PROMPTS

QUICK = ("mixtral", "qwen2_moe")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for family in QUICK:
        save_tiny(folder / family, family)
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts") / "words.jsonl")


@pytest.mark.parametrize("family", slow_but(["mixtral", "qwen2_moe", "phimoe", "olmoe", "deepseek_v2"], *QUICK))
def test_a_trace_holds_the_tokens_of_generate_without_recording(
    checkpoints: Path, prompts: Path, tmp_path: Path, family: str
) -> None:
    checkpoint = checkpoints / family if family in QUICK else save_tiny(tmp_path / family, family)
    trace = collected(checkpoint, prompts, tmp_path / "a.trace", "--lookahead", "1")
    assert not check(trace.path)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    ids = [numbers(text) for text in texts_of(prompts)]
    order = sorted(range(PROMPTS), key=lambda request: (-len(ids[request]), request))
    for batch in (order[start : start + BATCH] for start in range(0, PROMPTS, BATCH)):
        width = max(len(ids[request]) for request in batch)
        tokens = torch.tensor([[PAD] * (width - len(ids[one])) + ids[one] for one in batch])
        output: Any = model.generate(
            input_ids=tokens,
            attention_mask=(torch.arange(width) >= torch.tensor([[width - len(ids[one])] for one in batch])).long(),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
        )
        for request, generated in zip(batch, output[:, width:].tolist(), strict=True):
            count = next((i + 1 for i, token in enumerate(generated) if token == 2), NEW_TOKENS)
            recorded = trace.read(request)
            assert recorded.token.tolist() == ids[request] + generated[: count - 1]
            assert recorded.position.tolist() == list(range(len(ids[request]) + count - 1))
            assert trace.infos[request].output_tokens == count
            assert trace.infos[request].prompt_tokens == len(ids[request])


def test_an_embedding_is_what_the_embedding_layer_gives(checkpoints: Path, prompts: Path, tmp_path: Path) -> None:
    trace = collected(checkpoints / "mixtral", prompts, tmp_path / "a.trace", "--limit", "6")
    table = AutoModelForCausalLM.from_pretrained(checkpoints / "mixtral").get_input_embeddings().weight
    for request in trace.request_ids:
        recorded = trace.read(request)
        wanted = table[torch.tensor(recorded.token.tolist())].detach().to(torch.float16).numpy()
        assert recorded.embedding is not None
        np.testing.assert_array_equal(recorded.embedding, wanted)


def test_a_trace_says_where_it_came_from(checkpoints: Path, prompts: Path, tmp_path: Path) -> None:
    options = ("--keep-prompts", "--source-name", "odd", "--lookahead", "2,1", "--dtype", "bfloat16", "--limit", "6")
    trace = collected(checkpoints / "qwen2_moe", prompts, tmp_path / "a.trace", *options)
    meta = trace.meta
    assert (meta.kind, meta.model, meta.dtype, meta.score) == ("captured", "qwen2_moe", "bfloat16", "softmax")
    assert (meta.lookahead, meta.prompts, meta.seed, meta.revision) == ((1, 2), "words.jsonl", None, None)
    assert (meta.shape.experts, meta.shape.top_k, meta.shape.shared_ffn) == (12, 4, 56)
    assert [info.source for info in trace.infos.values()] == ["even", "odd"] * 3
    assert [info.prompt for info in trace.infos.values()] == texts_of(prompts)[:6]
    everything = b"".join(content(trace.path).values())
    assert str(checkpoints).encode() not in everything
    assert os.uname().nodename.encode() not in everything


def test_a_limit_takes_the_first_prompts(checkpoints: Path, prompts: Path, tmp_path: Path) -> None:
    trace = collected(checkpoints / "mixtral", prompts, tmp_path / "a.trace", "--limit", "3")
    assert [info.prompt_tokens for info in trace.infos.values()] == [len(numbers(t)) for t in texts_of(prompts)[:3]]


def test_what_a_request_samples_does_not_depend_on_its_neighbours(
    checkpoints: Path, prompts: Path, tmp_path: Path
) -> None:
    def tokens(name: str, *options: str) -> list[list[int]]:
        out = tmp_path / f"{name}.trace"
        trace = collected(checkpoints / "mixtral", prompts, out, "--temperature", "0.9", *options)
        return [trace.read(request).token.tolist() for request in range(4)]

    four = tokens("four", "--seed", "5", "--limit", "7")
    assert tokens("one", "--seed", "5", "--limit", "4", "--batch-size", "1") == four
    assert tokens("few", "--seed", "5", "--limit", "4") == four
    assert tokens("other", "--seed", "6", "--limit", "4") != four


def test_sampling_draws_from_the_softmax_at_the_temperature() -> None:
    logits = torch.tensor([0.0, 1.0, 2.5, -3.0])
    draws = 4000
    sampling = SeededSampling(temperature=1.7, seed=1, requests=range(draws))
    scores = sampling(torch.zeros(draws, 1), logits.expand(draws, 4))
    share = torch.bincount(scores.argmax(1), minlength=4) / draws
    np.testing.assert_allclose(share.numpy(), torch.softmax(logits / 1.7, 0).numpy(), atol=0.025)


@pytest.mark.parametrize(
    "options",
    [("--temperature", "0.8", "--lookahead", "1"), ("--continue-text", "--prompt-tokens", "2", "--lookahead", "1")],
    ids=lambda options: options[0],
)
def test_a_resumed_collection_equals_an_uninterrupted_one(
    checkpoints: Path,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
) -> None:
    options += ("--limit", "6")  # two batches
    whole = collected(checkpoints / "mixtral", prompts, tmp_path / "whole.trace", *options)
    _stop_after_parts(monkeypatch, 1)
    ran = command(checkpoints / "mixtral", prompts, tmp_path / "parts.trace", *options)
    assert main(ran) == 130
    assert len(list((tmp_path / "parts.trace.partial" / "parts").iterdir())) == 1
    monkeypatch.undo()
    assert main(ran) == 0
    assert content(tmp_path / "parts.trace") == content(whole.path)
    assert not (tmp_path / "parts.trace.partial").exists()
    assert main(ran) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*ran, "--overwrite"]) == 0


def test_a_finished_batch_is_not_run_again(
    checkpoints: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stop_after_parts(monkeypatch, 2)
    ran = command(checkpoints / "mixtral", prompts, tmp_path / "a.trace")
    assert main(ran) == 130
    monkeypatch.undo()
    numbers: list[int] = []
    original = TraceWriter.write_part
    monkeypatch.setattr(
        TraceWriter, "write_part", lambda self, number, *rest: (numbers.append(number), original(self, number, *rest))
    )
    assert main(ran) == 0
    assert numbers == [2, 3]  # 14 prompts in batches of 4


def test_other_settings_do_not_go_on_with_what_was_begun(
    checkpoints: Path,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _stop_after_parts(monkeypatch, 1)
    out = tmp_path / "a.trace"
    assert main(command(checkpoints / "mixtral", prompts, out)) == 130
    monkeypatch.undo()
    other = command(checkpoints / "mixtral", prompts, out, "--limit", "9")
    assert main(other) == 2
    assert "prompts" in capsys.readouterr().err
    assert main([*other, "--restart"]) == 0
    assert len(Trace.open(out)) == 9


def _stop_after_parts(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    original = TraceWriter.write_part

    def write_part(self: TraceWriter, number: int, *rest: Any) -> None:
        if len(self.finished) == parts:
            raise KeyboardInterrupt
        original(self, number, *rest)

    monkeypatch.setattr(TraceWriter, "write_part", write_part)


def test_a_model_of_the_hub_is_recorded_with_its_commit(
    checkpoints: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--acme--tiny"
    shutil.copytree(checkpoints / "mixtral", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    # What the library has made of $HF_HUB_CACHE and $HF_HUB_OFFLINE.
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    meta = collected("acme/tiny", prompts, tmp_path / "hub.trace", "--limit", "2").meta
    assert (meta.model, meta.revision) == ("acme/tiny", commit)


def test_the_pocket_model_is_called_by_its_name(tmp_path: Path) -> None:
    trace = collected("pocket", DEMO_PROMPTS, tmp_path / "a.trace", "--limit", "3")
    assert (trace.meta.model, trace.meta.dtype) == ("pocket", "float32")
    assert (trace.shape.layers, trace.shape.experts, trace.shape.top_k) == (8, 8, 2)
    assert len(trace) == 3
