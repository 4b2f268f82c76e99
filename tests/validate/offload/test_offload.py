"""A model whose experts are offloaded says what it says with all of them in memory, to the last bit."""

import gc
import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from tests.support.offload_helpers import (
    NEW_TOKENS,
    all_slots,
    assert_same,
    config_of,
    driven,
    ending_early,
    loaded_as,
    prompts_of,
    record_path,
    served,
    smallest_slots,
    tiny_loaded,
)
from tests.support.slow_cases import slow_but
from tests.support.tiny_models import tiny_model
from traces.capture.generation import TokenizedPrompt, generate
from traces.capture.model_loading import LoadedModel, load
from traces.capture.model_structure import moe_blocks, shape_of
from validate.offload.offloaded_model import OffloadedModel, offload

FAMILIES = [
    "mixtral",
    "qwen2_moe",
    "phimoe",
    "olmoe",
    "qwen3_moe",
    "deepseek_v2",
    "deepseek_v3",
    "gpt_oss",
    "granitemoe",
    "granitemoeshared",
    "glm4_moe",
    "ernie4_5_moe",
    "flex_olmo",
    "minimax_m2",
    "hunyuan_v1_moe",
    "lfm2_moe",
    "dots1",
    "afmoe",
    "jamba",
    "gemma4_text",
]
ALONE, RAGGED = (9,), (5, 14, 9)


def assert_lossless(
    loaded: LoadedModel, batches: Sequence[Sequence[TokenizedPrompt]], folder: Path, caches: Sequence[int] = range(5)
) -> None:
    """For one device and three, for the fewest slots, some and all: whole experts and chunks, in several orders.

    `caches` are the numbers of those that are tried.
    """
    shape = shape_of(loaded.model, name="tiny")
    cases = []
    for batch in batches:
        free = generate(loaded, batch, config_of(loaded), logits=True)
        cases.append((batch, (), free))
        if len(batch) > 1:
            ends = ending_early(free)
            cases.append((batch, ends, generate(loaded, batch, config_of(loaded, ends), logits=True)))
    offloaded = offload(loaded, record_path(folder))
    some = shape.total_experts // 3
    slots = [
        smallest_slots(shape.top_k, 1),
        smallest_slots(shape.top_k, 3),
        all_slots(some, 1),
        all_slots(some, 3),
        all_slots(shape.total_experts, 1),
    ]
    for seed in caches:
        driver, arena = driven(
            offloaded, slots[seed], chunk_bytes=shape.expert_bytes // 3 if seed % 2 else "whole", seed=seed
        )
        with offloaded.run(driver, arena):
            for batch, ends, resident in cases:
                assert_same(served(offloaded, loaded, batch, ends), resident)
        counts_of = driver.cache.counts
        assert counts_of.misses + counts_of.late > 0


BATCHES = [prompts_of(ALONE), prompts_of(RAGGED, seed=1)]


# The tests below offload other families in more ways, and the families left are built like one of these.
QUICK = (
    "phimoe",
    "deepseek_v2",
    "granitemoeshared",
    "glm4_moe",
    "ernie4_5_moe",
    "hunyuan_v1_moe",
    "lfm2_moe",
    "afmoe",
    "jamba",
    "gemma4_text",
)


@pytest.mark.parametrize("family", slow_but(FAMILIES, *QUICK))
def test_offloading_changes_no_bit(family: str, tmp_path: Path) -> None:
    """Of a ragged batch some of which ends early, in chunks to three devices with the fewest slots."""
    assert_lossless(tiny_loaded(family), BATCHES[1:], tmp_path, caches=(1,))


@pytest.mark.parametrize("family", slow_but(FAMILIES, "qwen2_moe"))
def test_offloading_changes_no_bit_whatever_the_cache(family: str, tmp_path: Path) -> None:
    assert_lossless(tiny_loaded(family), BATCHES, tmp_path)


@pytest.mark.parametrize("family", slow_but(FAMILIES, "mixtral", "gpt_oss", "deepseek_v3"))
def test_offloading_changes_no_bit_of_bfloat16(family: str, tmp_path: Path) -> None:
    """What is copied and when does not depend on what the bytes are: in chunks to three devices, and whole to one."""
    assert_lossless(tiny_loaded(family, torch.bfloat16), BATCHES, tmp_path, caches=(1, 2))


@pytest.mark.parametrize(
    ("dtype", "caches"), slow_but([("bfloat16", (1,)), ("bfloat16", (2,)), ("float32", (1, 2))], ("bfloat16", (1,)))
)
def test_offloading_changes_no_bit_of_the_pocket_model(dtype: str, caches: Sequence[int], tmp_path: Path) -> None:
    loaded = load("pocket", dtype=dtype)
    loaded.model.set_experts_implementation("eager")
    vocabulary = loaded.config.vocab_size
    assert_lossless(
        loaded,
        [prompts_of((40,), vocabulary=vocabulary), prompts_of((12, 40, 23), 1, vocabulary)],
        tmp_path,
        caches=caches,
    )


def test_several_threads_change_no_bit(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    assert_lossless(tiny_loaded("qwen2_moe"), [prompts_of((60, 20))], tmp_path, caches=(1,))


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("llama", r"'llama' has no experts"),
        ("jetmoe", r"no router .* was found beside the experts of block model\.layers\.0\.self_attention"),
        ("llama4_text", r"block model\.layers\.0\.feed_forward, Llama4TextExperts, do not use .* experts interface"),
        ("dbrx", r"block transformer\.blocks\.0\.ffn, DbrxExperts, do not use Transformers' experts interface"),
    ],
)
def test_a_model_that_cannot_be_offloaded_is_refused_with_the_reason(family: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        offload(loaded_as(tiny_model(family)), record_path(tmp_path))
    assert not list(tmp_path.iterdir())


def offloaded_mixtral(folder: Path) -> tuple[LoadedModel, OffloadedModel]:
    loaded = tiny_loaded("mixtral")
    return loaded, offload(loaded, record_path(folder))


def test_the_experts_are_gone_from_memory(tmp_path: Path) -> None:
    loaded = tiny_loaded("mixtral")
    shape = shape_of(loaded.model, name="mixtral")
    experts = [block.experts for block in moe_blocks(loaded.model)]
    weights = [weakref.ref(parameter) for module in experts for parameter in module.parameters()]
    assert len(weights) == 6
    offloaded = offload(loaded, record_path(tmp_path))
    gc.collect()
    assert [weight() for weight in weights] == [None] * 6
    assert not [name for module in experts for name, _ in module.named_parameters()]
    assert offloaded.shape == shape
    assert shape.expert_bytes == 3 * 48 * 40 * 4
    with pytest.raises(RuntimeError, match=r"inside OffloadedModel\.run\(\) only"):
        generate(loaded, prompts_of(ALONE), config_of(loaded))
    loaded.model.set_experts_implementation("eager")
    with pytest.raises(AttributeError, match="gate_up_proj"):
        generate(loaded, prompts_of(ALONE), config_of(loaded))


def test_experts_are_computed_from_their_slots(tmp_path: Path) -> None:
    loaded = tiny_loaded("mixtral")
    resident = generate(loaded, prompts_of(ALONE), config_of(loaded), logits=True)
    offloaded = offload(loaded, record_path(tmp_path))
    offloaded.records.bytes[:, -64:] = 0
    driver, arena = driven(offloaded, [24])
    with offloaded.run(driver, arena):
        changed = served(offloaded, loaded, prompts_of(ALONE))
        assert not torch.equal(resident.logits[0], changed.logits[0])
        offloaded.records.bytes.fill_(255)  # not a number; but the slots have the experts now
        again = served(offloaded, loaded, prompts_of(ALONE))
    assert_same(changed, again)


def test_experts_needed_only_by_padding_are_neither_demanded_nor_left_out(tmp_path: Path) -> None:
    loaded = tiny_loaded("olmoe")
    batch = prompts_of((1, 1, 20))
    resident = generate(loaded, batch, config_of(loaded), logits=True)
    (alone,) = generate(loaded, batch[:1], config_of(loaded)).tokens
    offloaded = offload(loaded, record_path(tmp_path))
    driver, arena = driven(offloaded, [48])
    with offloaded.run(driver, arena):
        free = served(offloaded, loaded, batch)
        assert_same(free, resident)
        demanded = driver.demands[-1]
        assert alone == free.tokens[0]
        # Alone, the other two having ended, the first request demands its own experts only.
        for gates, demands in zip(driver.gates, driver.demands, strict=True):
            for gate, experts in zip(gates, demands, strict=True):
                assert experts == sorted({*gate.experts.ravel().tolist()})
        ends = [token for tokens in free.tokens[1:] for token in tokens[:1] if token not in free.tokens[0]]
        assert len({*ends}) == 2
        ended = served(offloaded, loaded, batch, ends)
    assert ended.tokens[0] == free.tokens[0]
    assert driver.batches[-1].request.tolist() == [10]
    assert [len(experts) for experts in driver.demands[-1]] == [8] * 3
    assert max(map(len, demanded)) > 8


class FailingDriverError(Exception):
    pass


CALLS = ["begin_iteration", "begin_layer", "gated", "computed", "end_iteration"]


@pytest.mark.parametrize("call", slow_but(CALLS, "begin_iteration", "gated", "end_iteration"))
def test_an_exception_of_the_driver_ends_generation_and_leaves_the_model_usable(call: str, tmp_path: Path) -> None:
    loaded = tiny_loaded("qwen2_moe")
    batch = prompts_of(RAGGED)
    resident = generate(loaded, batch, config_of(loaded), logits=True)
    offloaded = offload(loaded, record_path(tmp_path))
    driver, arena = driven(offloaded, [5])
    calls = 0
    real = getattr(driver, call)

    def failing(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise FailingDriverError(call)
        return real(*args)

    setattr(driver, call, failing)
    with pytest.raises(FailingDriverError, match=call), offloaded.run(driver, arena):
        served(offloaded, loaded, batch)
    assert_no_trace_of_a_run(offloaded)
    driver, arena = driven(offloaded, [5])
    with offloaded.run(driver, arena):
        assert_same(served(offloaded, loaded, batch), resident)
        assert_same(served(offloaded, loaded, batch), resident)
    assert [batch.iteration for batch in driver.batches] == list(range(2 * NEW_TOKENS))
    assert_no_trace_of_a_run(offloaded)


def assert_no_trace_of_a_run(offloaded: OffloadedModel) -> None:
    for module in offloaded.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    for block in offloaded.blocks:
        assert not [name for name in vars(block.experts) if name.startswith("finemoe_lab")]


def test_each_generation_must_be_announced(tmp_path: Path) -> None:
    loaded, offloaded = offloaded_mixtral(tmp_path)
    with pytest.raises(RuntimeError, match="belongs inside"):
        offloaded.serve([0], ends=(), new_tokens=3)
    driver, arena = driven(offloaded, [8])
    with offloaded.run(driver, arena):
        with pytest.raises(RuntimeError, match="open already"), offloaded.run(driver, arena):
            pass
        with pytest.raises(RuntimeError, match=r"call serve\(\) before"):
            generate(loaded, prompts_of(ALONE), config_of(loaded))
        served(offloaded, loaded, prompts_of(ALONE))
        with pytest.raises(RuntimeError, match=r"call serve\(\) before"):
            generate(loaded, prompts_of(ALONE), config_of(loaded))
