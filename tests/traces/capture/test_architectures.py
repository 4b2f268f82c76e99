"""For each supported family, the recording equals what its routers and experts did."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from policies.types import RecordedRequest
from tests.support.capture_helpers import (
    FAMILIES,
    NEW_TOKENS,
    NOT_A_MATRIX,
    SIGMOID,
    chosen,
    expected_gate,
    generate,
    matrix_of,
    model_of,
    record,
    spied,
    top_k_of,
)
from tests.support.slow_cases import slow_but
from tests.support.tiny_models import HIDDEN, padded, tiny_model
from traces.capture.gate_recorder import ForwardPass, GateRecorder, requests_of
from traces.capture.model_structure import moe_blocks, shape_of

# Families whose routers choose or score in a way of their own, or whose blocks are found in a place of their own.
DISTINCT = ("mixtral", "deepseek_v2", "deepseek_v3", "gpt_oss", "gemma4_text", "jamba", "ernie4_5_moe", "dbrx")


@cache
def recorded(family: str) -> tuple[list[ForwardPass], dict[str, dict[int, list[Any]]]]:
    """What is recorded of padded prompts and their continuations, and what was seen inside meanwhile."""
    model = model_of(family)
    with spied(model) as seen, GateRecorder(model) as recorder:
        generate(model, *padded())
    return recorder.take(), seen


def requests(family: str) -> list[RecordedRequest]:
    """The same, by request."""
    rows = range(len(padded()[0]))
    return requests_of(recorded(family)[0], [NEW_TOKENS] * len(rows), rows, [""] * len(rows))


@pytest.mark.parametrize("family", FAMILIES)
def test_executed_experts_are_those_that_the_experts_received(family: str) -> None:
    model, (passes, seen) = model_of(family), recorded(family)
    assert len(passes) == NEW_TOKENS
    for layer in range(len(moe_blocks(model))):
        for one, indices in zip(passes, seen["indices"][layer], strict=True):
            np.testing.assert_array_equal(one.experts[:, :, layer].reshape(len(indices), -1), indices.numpy())


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - NOT_A_MATRIX))
def test_probabilities_are_the_score_of_the_routers_logits(family: str) -> None:
    model, (passes, seen) = model_of(family), recorded(family)
    for layer, block in enumerate(moe_blocks(model)):
        for one, hidden in zip(passes, seen["hidden"][layer], strict=True):
            wanted = expected_gate(block.router, hidden, sigmoid=family in SIGMOID)
            assert one.gate.dtype == np.float16
            np.testing.assert_allclose(one.gate[:, :, layer].reshape(wanted.shape), wanted, atol=6e-4)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [(family, torch.float32) for family in FAMILIES]
    + slow_but([(family, torch.bfloat16) for family in FAMILIES], *((family, torch.bfloat16) for family in DISTINCT)),
    ids=str,
)
def test_the_score_function_is_found_from_the_weights_of_the_mixture(family: str, dtype: torch.dtype) -> None:
    model = model_of(family, dtype=dtype)
    with GateRecorder(model) as recorder, torch.no_grad():
        model(input_ids=padded((9,))[0])
    wanted = "probabilities" if family == "gemma4_text" else "sigmoid" if family in SIGMOID else "softmax"
    assert recorder.score == wanted


def test_a_router_that_returns_probabilities_is_taken_at_its_word() -> None:
    model = model_of("gemma4_text")
    router = moe_blocks(model)[0].router
    said: list[torch.Tensor] = []
    hook = router.register_forward_hook(lambda module, args, output: said.append(output[0]))
    with GateRecorder(model) as recorder, torch.no_grad():
        model(input_ids=padded((9,))[0])
    hook.remove()
    np.testing.assert_allclose(recorder.take()[0].gate[0, :, 0], said[0].numpy(), atol=6e-4)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - NOT_A_MATRIX))
def test_executed_experts_are_those_that_the_familys_paper_chooses(family: str) -> None:
    model, (passes, seen) = model_of(family), recorded(family)
    for layer, block in enumerate(moe_blocks(model)):
        for one, hidden in zip(passes, seen["hidden"][layer], strict=True):
            wanted = chosen(family, block.router, model.get_submodule(block.name), hidden)
            executed = np.sort(one.experts[:, :, layer].reshape(wanted.shape), axis=1)
            np.testing.assert_array_equal(executed, wanted)


@pytest.mark.parametrize("family", sorted(SIGMOID))
def test_normalised_sigmoids_sum_to_one_and_keep_the_order_of_the_logits(family: str) -> None:
    model = model_of(family)
    with spied(model) as seen, GateRecorder(model) as recorder, torch.no_grad():
        model(input_ids=padded((40,))[0])
    gate = recorder.take()[0].gate[0].astype(np.float64)  # [T, L, J]
    np.testing.assert_allclose(gate.sum(-1), 1, atol=5e-3)
    for layer, block in enumerate(moe_blocks(model)):
        weight, _ = matrix_of(block.router)
        logits = seen["hidden"][layer][0].reshape(40, -1).double() @ weight.detach().double().T
        ordered = np.take_along_axis(gate[:, layer], logits.argsort(-1, descending=True).numpy(), axis=-1)
        assert (np.diff(ordered, axis=-1) <= 0).all()


@pytest.mark.parametrize(
    ("family", "dtype"),
    slow_but(
        [(family, dtype) for dtype in (torch.float32, torch.bfloat16) for family in FAMILIES],
        *((family, torch.float32) for family in DISTINCT),
        *((family, torch.bfloat16) for family in ("mixtral", "deepseek_v3", "gemma4_text", "gpt_oss")),
    ),
    ids=str,
)
def test_recording_does_not_change_a_bit_of_the_logits(family: str, dtype: torch.dtype) -> None:
    model = model_of(family, dtype=dtype)
    options = {"output_logits": True, "return_dict_in_generate": True}
    bare: Any = generate(model, *padded(), **options)
    with GateRecorder(model, lookahead=(1,)):
        recorded: Any = generate(model, *padded(), **options)
    assert torch.equal(bare.sequences, recorded.sequences)
    assert all(torch.equal(one, other) for one, other in zip(bare.logits, recorded.logits, strict=True))


@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3", "ernie4_5_moe", "minimax_m2"])
def test_what_runs_is_not_always_what_scores_best(family: str) -> None:
    one = record(model_of(family), *padded((40,)))[0]
    best = np.sort(np.argsort(-one.gate.astype(np.float32), axis=2)[:, :, : one.experts.shape[2]], axis=2)
    assert (np.sort(one.experts, axis=2) != best).any()


def test_group_limited_routing_executes_experts_of_the_chosen_groups_only() -> None:
    one = record(model_of("deepseek_v2"), *padded((40,)))[0]
    groups = one.experts // 4  # 16 experts in 4 groups, of which 2 are chosen
    assert max(len(set(layer)) for row in groups.tolist() for layer in row) <= 2


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("llama", r"'llama' has no experts"),
        ("jetmoe", r"no router .* was found beside the experts of block model\.layers\.0\.self_attention"),
        ("llama4_text", r"experts of block model\.layers\.0\.feed_forward are called without the indices"),
    ],
)
def test_an_unsupported_model_is_reported_with_what_is_missing(family: str, said: str) -> None:
    model = tiny_model(family)
    with pytest.raises(UserError, match=said), GateRecorder(model), torch.no_grad():
        model(input_ids=padded((5,))[0])


def test_experts_that_are_a_list_of_modules_are_refused() -> None:
    model = tiny_model("mixtral")
    block: Any = model.get_submodule("model.layers.1.mlp")
    block.experts = torch.nn.ModuleList(torch.nn.Linear(HIDDEN, HIDDEN) for _ in range(8))
    said = (
        r"^model of type 'mixtral': the experts of block model\.layers\.1\.mlp are not one module with 'num_experts'$"
    )
    with pytest.raises(UserError, match=said):
        GateRecorder(model)


def test_a_router_that_gives_its_choice_alone_is_refused() -> None:
    model = tiny_model("mixtral")
    router: Any = moe_blocks(model)[0].router
    original = router.forward
    router.forward = lambda *args: original(*args)[1:]
    said = r"^the router of block model\.layers\.0\.mlp does not give a score to each of its 8 experts$"
    with pytest.raises(UserError, match=said), GateRecorder(model):
        model(input_ids=padded((5,))[0])


def test_layers_with_different_numbers_of_experts_are_refused() -> None:
    model = tiny_model("mixtral")
    experts: Any = moe_blocks(model)[2].experts
    experts.num_experts = 6
    with pytest.raises(UserError, match=r"'mixtral' has layers with different numbers of experts: \[6, 8\]"):
        GateRecorder(model)


@pytest.mark.parametrize(
    ("family", "layers"),
    [
        ("mixtral", [0, 1, 2]),
        ("deepseek_v2", [1, 2]),
        ("deepseek_v3", [1, 2]),
        ("glm4_moe", [1, 2]),
        ("ernie4_5_moe", [1, 2]),
        ("lfm2_moe", [1, 2]),
        ("afmoe", [1, 2]),
        ("jamba", [1, 3]),  # every other layer
    ],
)
def test_the_first_layer_that_has_experts_is_layer_0_of_a_trace(family: str, layers: list[int]) -> None:
    model = model_of(family)
    for layer, block in zip(layers, moe_blocks(model), strict=True):
        assert f".layers.{layer}." in block.name
    assert requests(family)[0].gate.shape[1] == shape_of(model, name="tiny").layers == len(layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_experts_are_never_counted(family: str) -> None:
    model = model_of(family)
    shape = shape_of(model, name="tiny")
    for one in requests(family):
        assert one.experts.shape[2] == shape.top_k == top_k_of(family)
        assert one.experts.min() >= 0
        assert one.experts.max() < shape.experts == one.gate.shape[2]


def test_a_router_with_more_outputs_than_experts_is_refused() -> None:
    model = tiny_model("mixtral")
    moe_blocks(model)[1].router.weight = torch.nn.Parameter(torch.zeros(9, HIDDEN))  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"layers\.1\.mlp does not give a score to each of its 8"), GateRecorder(model):
        model(input_ids=padded((5,))[0])


@pytest.mark.parametrize(
    ("family", "layers", "experts", "top_k", "expert_ffn", "shared_ffn", "kv_heads"),
    [
        ("mixtral", 3, 8, 2, 40, 0, 2),
        ("qwen2_moe", 3, 12, 4, 24, 56, 2),
        ("phimoe", 3, 16, 2, 40, 0, 2),
        ("olmoe", 3, 16, 8, 24, 0, 2),
        ("gpt_oss", 3, 8, 4, 40, 0, 2),
        ("deepseek_v3", 2, 16, 4, 24, 24, 4),
        ("ernie4_5_moe", 2, 16, 4, 24, 24, 2),
        ("hunyuan_v1_moe", 3, 8, 2, 24, 24, 2),
        ("granitemoeshared", 3, 8, 2, 40, 32, 2),
        ("gemma4_text", 3, 8, 2, 24, 0, 2),
        ("dbrx", 3, 8, 2, 24, 0, 2),
        ("deepseek_v2", 2, 16, 4, 24, 48, 4),
        ("glm4_moe", 2, 16, 4, 24, 24, 2),
        ("dots1", 2, 16, 4, 24, 48, 2),
        ("afmoe", 2, 8, 2, 24, 24, 2),
        ("minimax_m2", 3, 16, 4, 24, 0, 2),
        ("qwen3_moe", 3, 16, 4, 24, 0, 2),
        ("granitemoe", 3, 8, 2, 40, 0, 2),
        ("jamba", 2, 8, 2, 40, 0, 2),
        ("glm4_moe_lite", 2, 16, 4, 24, 24, 4),
        ("exaone_moe", 2, 16, 4, 24, 24, 2),
        ("solar_open", 3, 16, 4, 24, 24, 2),
        ("minimax", 3, 8, 2, 24, 0, 2),
        ("qwen3_next", 3, 16, 4, 24, 56, 2),
    ],
)
def test_the_shape_of_a_model_is_that_of_its_configuration(
    family: str, layers: int, experts: int, top_k: int, expert_ffn: int, shared_ffn: int, kv_heads: int
) -> None:
    shape = shape_of(model_of(family), name="tiny")
    assert (shape.layers, shape.experts, shape.top_k) == (layers, experts, top_k)
    assert (shape.expert_ffn, shape.shared_ffn, shape.hidden) == (expert_ffn, shared_ffn, HIDDEN)
    assert (shape.attention_heads, shape.kv_heads, shape.head_dim) == (4, kv_heads, 12)
    assert (shape.vocab, shape.weight_bytes, shape.name) == (199, 4.0, "tiny")
    assert shape_of(model_of(family, dtype=torch.bfloat16), name="tiny").weight_bytes == 2.0
