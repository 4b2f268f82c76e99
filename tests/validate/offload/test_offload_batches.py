"""A driver receives from a real run what the simulator replays from its trace."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policies.types import RecordedRequest
from sim.engine.batching import Step, fixed_batches, gates_of
from tests.support.offload_helpers import config_of, driven, ending_early, prompts_of, record_path, served, tiny_loaded
from tests.support.slow_cases import slow_but
from traces.capture.collection import embeddings_of
from traces.capture.gate_recorder import GateRecorder, requests_of
from traces.capture.generation import TokenizedPrompt, generate
from traces.capture.model_loading import LoadedModel
from validate.offload.offloaded_model import offload

LENGTHS = (5, 14, 9, 1, 7)


def recorded(loaded: LoadedModel, batches: list[list[TokenizedPrompt]], ends: list[int]) -> list[RecordedRequest]:
    """The trace of a run of the resident model, with the embeddings that the collector would store."""
    requests: list[RecordedRequest] = []
    with GateRecorder(loaded.model) as recorder:
        for batch in batches:
            counts = [len(tokens) for tokens in generate(loaded, batch, config_of(loaded, ends)).tokens]
            requests += requests_of(recorder.take(), counts, [one.request for one in batch], [""] * len(batch))
    tokens, vectors = embeddings_of(requests, loaded.model)
    return [replace(one, embedding=vectors[np.searchsorted(tokens, one.token)]) for one in requests]


def assert_equal(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(one, other, strict=True)  # shape and type too


PLACES = list(
    product(
        [torch.float32, torch.bfloat16], ["mixtral", "qwen2_moe", "deepseek_v3", "gemma4_text", "ernie4_5_moe"], [1, 3]
    )
)


@pytest.mark.parametrize(
    ("dtype", "family", "size"),
    slow_but(
        PLACES,
        (torch.float32, "mixtral", 1),
        (torch.float32, "gemma4_text", 3),
        (torch.float32, "ernie4_5_moe", 3),
        (torch.bfloat16, "deepseek_v3", 3),
    ),
)
def test_batches_gates_and_demands_are_those_of_the_trace(
    dtype: torch.dtype, family: str, size: int, tmp_path: Path
) -> None:
    loaded = tiny_loaded(family, dtype)
    prompts = prompts_of(LENGTHS)
    batches = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    ends = ending_early(generate(loaded, prompts, config_of(loaded)))
    requests = recorded(loaded, batches, ends)
    assert len({int(one.iteration[-1]) for one in requests}) > 1
    steps: list[Step] = list(fixed_batches(requests, size))

    offloaded = offload(loaded, record_path(tmp_path))
    driver, arena = driven(offloaded, [9])
    with offloaded.run(driver, arena):
        for batch in batches:
            served(offloaded, loaded, batch, ends)

    assert len(driver.batches) == len(steps)
    layers = len(offloaded.blocks)
    for step, batch, gates, demands, maps in zip(
        steps, driver.batches, driver.gates, driver.demands, driver.maps, strict=True
    ):
        assert batch.iteration == step.batch.iteration
        for name in ("request", "row", "prefill", "token", "embedding"):
            assert_equal(getattr(batch, name), getattr(step.batch, name))
        assert_equal(maps, step.maps)
        assert demands == step.demands
        for gate, wanted in zip(gates, gates_of(step), strict=True):
            assert gate.layer == wanted.layer
            assert_equal(gate.probs, wanted.probs)
            assert_equal(gate.experts, wanted.experts)
    assert driver.layers == [list(range(layers))] * len(steps)
    assert [list(ids) for ids in driver.starting] == [list(step.starting) for step in steps]
    assert [list(ids) for ids in driver.ending] == [list(step.ending) for step in steps]
