"""What computing, copying and searching cost, against closed forms worked out by hand."""

from dataclasses import replace

import pytest

from common.errors import UserError
from policies.types import Search
from sim.hardware.parts import Gpu, Link
from sim.hardware.presets import preset, preset_names
from tests.support.builders import machine, shape
from traces.published_models import PUBLISHED, published

# Grouped-query attention, 4 heads of 3 on 2 key-value heads, beside 5 experts and shared experts of width 7.
#   weights: queries and output 2·8·12, keys and values 2·8·6, router 8·5, shared experts 3·8·7: 192 + 96 + 40 + 168
MODEL = shape(
    experts=5, hidden=8, expert_ffn=6, shared_ffn=7, attention_heads=4, kv_heads=2, head_dim=3, vocab=10
)  # 2 bytes a weight
DENSE_WEIGHTS = 496
OVERHEAD_S = 0.25


def costs(model=MODEL, *, flops_per_s=1e9, memory_bytes_per_s=1e9, gpus=1):
    """On a GPU whose peaks are round numbers and whose operations take a quarter of a second to start."""
    gpu = Gpu(
        name="round",
        flops_per_s=flops_per_s,
        memory_bytes_per_s=memory_bytes_per_s,
        memory_bytes=1e6,
        overhead_s=OVERHEAD_S,
    )
    return replace(machine(gpus), gpu=gpu).cost(model)


def slow_memory(model=MODEL):
    """A kilobyte per second and arithmetic for nothing: a cost is the bytes / 1000."""
    return costs(model, flops_per_s=1e18, memory_bytes_per_s=1e3)


def slow_arithmetic(model=MODEL):
    """A thousand operations per second and memory for nothing: a cost is the operations / 1000."""
    return costs(model, flops_per_s=1e3, memory_bytes_per_s=1e18)


def seconds(value):
    return pytest.approx(value + OVERHEAD_S, rel=1e-12)


@pytest.mark.parametrize("tokens", [1, 2, 50])
def test_an_expert_reads_three_matrices_and_each_token_in_and_out(tokens):
    weights = 3 * 8 * 6
    assert slow_memory().expert_s(tokens) == seconds((weights + tokens * 8 + tokens * 8) * 2 / 1e3)
    assert slow_arithmetic().expert_s(tokens) == seconds(2 * weights * tokens / 1e3)


def test_attention_router_and_shared_experts_are_one_operation():
    """Two tokens that see 10 cached positions in all and make 19 (token, position) pairs.

    Memory: the weights, 10 positions of keys and values (2·2·3 numbers each), two tokens of 8 in and out.
    Arithmetic: 2 per weight and token; per pair and head, 3 products and sums for the score and 3 for the mixture.
    """
    memory = DENSE_WEIGHTS + 10 * 12 + 2 * (8 + 8)
    assert slow_memory().dense_s(2, 10, 19) == seconds(memory * 2 / 1e3)
    arithmetic = 2 * 2 * DENSE_WEIGHTS + 19 * 4 * (2 * 3 + 2 * 3)
    assert slow_arithmetic().dense_s(2, 10, 19) == seconds(arithmetic / 1e3)


def test_shared_experts_belong_to_the_dense_part_alone():
    without = replace(MODEL, shared_ffn=0)
    difference = slow_memory().dense_s(1, 1, 1) - slow_memory(without).dense_s(1, 1, 1)
    assert difference == pytest.approx(3 * 8 * 7 * 2 / 1e3, rel=1e-12)
    difference = slow_arithmetic().dense_s(4, 4, 10) - slow_arithmetic(without).dense_s(4, 4, 10)
    assert difference == pytest.approx(4 * 2 * 3 * 8 * 7 / 1e3, rel=1e-12)
    assert slow_memory().expert_s(3) == slow_memory(without).expert_s(3)


def test_the_head_projects_the_last_token_of_each_request():
    assert slow_memory().head_s(3) == seconds((8 * 10 + 3 * 10) * 2 / 1e3)
    assert slow_arithmetic().head_s(3) == seconds(3 * 2 * 8 * 10 / 1e3)


def test_an_operation_takes_the_longer_of_its_arithmetic_and_its_memory():
    """An expert: 288 operations a token; 288 bytes and 32 more a token. At equal rates memory wins up to one token."""
    both = costs(flops_per_s=1e3, memory_bytes_per_s=1e3)
    assert both.expert_s(1) == seconds(0.320)
    assert both.expert_s(2) == seconds(0.576)


def test_every_operation_pays_its_start():
    fast = costs(flops_per_s=float("inf"), memory_bytes_per_s=float("inf"))
    assert [fast.expert_s(9), fast.dense_s(9, 9, 45), fast.head_s(9)] == [OVERHEAD_S] * 3


def test_smaller_weights_are_read_faster_and_computed_as_fast():
    quarter = replace(MODEL, weight_bytes=0.5)
    assert slow_memory(quarter).expert_s(1) - OVERHEAD_S == pytest.approx(0.320 / 4)
    assert slow_arithmetic(quarter).expert_s(1) == slow_arithmetic().expert_s(1)


def test_a_copy_takes_the_latency_and_its_bytes_at_the_links_rate():
    hardware = machine(bytes_per_s=2e6, latency_s=3e-6)
    assert hardware.cost(MODEL).copy_s(500) == pytest.approx(3e-6 + 250e-6, rel=1e-12)
    assert hardware.cost(MODEL).copy_s(0) == 3e-6
    assert Link(bytes_per_s=float("inf"), latency_s=0.0).copy_s(10**12) == 0.0


def test_chunks_pay_the_latency_each():
    link = Link(bytes_per_s=2e6, latency_s=3e-6)
    assert 4 * link.copy_s(250) == pytest.approx(link.copy_s(1000) + 3 * 3e-6, rel=1e-12)


def test_tokens_go_to_the_other_gpus_and_come_back():
    """6 tokens of 8 numbers of 2 bytes, of which 3 in 4 belong elsewhere: 72 bytes at 1e8 per second, both ways."""
    assert costs(gpus=4).exchange_s(6) == pytest.approx(2 * (1e-6 + 72 / 1e8), rel=1e-12)
    assert costs(gpus=2).exchange_s(6) == pytest.approx(2 * (1e-6 + 48 / 1e8), rel=1e-12)


def test_one_gpu_exchanges_nothing():
    assert costs(gpus=1).exchange_s(1000) == 0.0


def test_a_search_reads_the_store_once_and_computes_for_each_row():
    """1000 entries of 8 numbers: 32 kB at 1e9 per second; 16,000 operations a row at 1e9 per second."""
    cost = machine().cost(MODEL)
    assert cost.search_s(Search("trajectory", 0, 1, 8, 1000)) == pytest.approx(1e-6 + 32e-6, rel=1e-12)
    assert cost.search_s(Search("trajectory", 0, 5, 8, 1000)) == pytest.approx(1e-6 + 80e-6, rel=1e-12)
    assert cost.search_s(Search("semantic", -1, 1, 8, 0)) == 1e-6


def test_an_update_costs_what_a_search_of_its_size_costs():
    cost = machine().cost(MODEL)
    assert cost.search_s(Search("update", 1, 2, 18, 30)) == cost.search_s(Search("trajectory", 0, 2, 18, 30))


def test_a_free_search_takes_no_time():
    assert machine(free_search=True).cost(MODEL).search_s(Search("update", 1, 9, 500, 1000)) == 0.0


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("mixtral-8x7b", 3 * 4096 * 14336 * 2),
        ("qwen1.5-moe-a2.7b", 3 * 2048 * 1408 * 2),
        ("phi-3.5-moe", 3 * 4096 * 6400 * 2),
        ("gpt-oss-20b", 3 * 2880 * 2880 * 2),
    ],
)
def test_an_expert_of_a_published_model_has_the_bytes_of_its_three_matrices(model, size):
    assert published(model).expert_bytes == size


def test_all_experts_of_the_published_models_have_the_sizes_that_are_known_of_them():
    """Mixtral's 32 × 8 experts are 45.1 of its 46.7 billion parameters; an expert of gpt-oss-20b has 49.8 MB."""
    mixtral = published("mixtral-8x7b")
    assert mixtral.total_experts * mixtral.expert_bytes / 2 == pytest.approx(45.1e9, rel=1e-3)
    assert published("gpt-oss-20b").expert_bytes == pytest.approx(49.8e6, rel=1e-3)
    assert published("gpt-oss-20b").total_experts == 24 * 32


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_dense_part_of_a_published_model_reads_its_attention_router_and_shared_experts(model):
    sizes = published(model)
    queries, keys = sizes.attention_heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    weights = (
        sizes.hidden * queries  # queries
        + sizes.hidden * keys  # keys
        + sizes.hidden * keys  # values
        + queries * sizes.hidden  # output
        + sizes.experts * sizes.hidden  # router
        + 3 * sizes.hidden * sizes.shared_ffn
    )
    touched = weights + 2 * keys * 1 + 2 * sizes.hidden  # one cached position, one token in and out
    assert slow_memory(sizes).dense_s(1, 1, 1) == seconds(touched * 2 / 1e3)


def test_the_papers_first_testbed_is_six_gpus_of_24_gb_on_pcie_at_32_gb_per_s():
    testbed = preset("paper-rtx3090x6")
    assert testbed.gpus == 6
    assert testbed.gpu.memory_bytes == 24e9
    assert testbed.host_link.bytes_per_s == 32e9


def test_the_papers_second_testbed_is_one_a100_of_80_gb_at_2_tb_per_s():
    testbed = preset("paper-a100")
    assert testbed.gpus == 1
    assert testbed.gpu.memory_bytes == 80e9
    assert testbed.gpu.memory_bytes_per_s == 2e12
    assert testbed.host_link.bytes_per_s == 32e9


def test_one_rtx_3090_is_a_sixth_of_the_testbed():
    one, six = preset("paper-rtx3090"), preset("paper-rtx3090x6")
    assert replace(six, name="paper-rtx3090", gpus=1) == one


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_known_by_its_own_name(name):
    assert preset(name).name == name


def test_a_mixtral_expert_takes_eleven_milliseconds_over_pcie_and_a_third_of_one_to_compute():
    """352 MB at 32 GB/s, and the same bytes at 936 GB/s: why offloading is bound by the link."""
    cost = preset("paper-rtx3090x6").cost(published("mixtral-8x7b"))
    overhead_s = cost.machine.gpu.overhead_s
    assert cost.copy_s(352_321_536) == pytest.approx(11.01e-3 + cost.machine.host_link.latency_s, rel=1e-3)
    assert cost.expert_s(1) == pytest.approx(0.3764e-3 + overhead_s, rel=1e-3)
    assert cost.expert_s(1000) == pytest.approx(2 * 1000 * 176_160_768 / 71e12 + overhead_s, rel=1e-12)


@pytest.mark.parametrize("name", ["rtx3090x5", "h100", ""])
def test_an_unknown_machine_is_an_error_that_lists_all(name):
    with pytest.raises(UserError) as error:
        preset(name)
    assert str(error.value) == (
        f"unknown machine {name!r}; known: a100-80gb, h100-80gb, h200-141gb, paper-a100, paper-rtx3090, "
        "paper-rtx3090x6, rtx3090, rtx3090x6, rtx4090, or a FILE.toml with, for example, "
        'extends = "rtx4090" and the differences'
    )


def test_an_unknown_model_offers_the_nearest():
    with pytest.raises(UserError, match=r"^unknown model 'mixtral-8x22b'; did you mean 'mixtral-8x7b'\?$"):
        published("mixtral-8x22b")


def test_a_machine_has_at_least_one_gpu():
    with pytest.raises(UserError, match=r"^gpus: must be at least 1, not 0$"):
        machine(gpus=0)
