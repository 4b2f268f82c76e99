"""The recorder records what the model did, and does not change it."""

from itertools import product
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch

from tests.support.capture_helpers import (
    FAMILIES,
    NEW_TOKENS,
    NOT_A_MATRIX,
    SIGMOID,
    expected_gate,
    generate,
    model_of,
    record,
    spied,
)
from tests.support.slow_cases import slow_but
from tests.support.tiny_models import padded, tiny_model
from traces.capture.gate_recorder import GateRecorder, product_type, requests_of
from traces.capture.model_structure import moe_blocks
from traces.capture.router_scores import fitting_score, scores


def test_scores_sum_to_one() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    for name, powers in (("softmax", np.exp([2.0, -1.0, 0.5])), ("sigmoid", 1 / (1 + np.exp([-2.0, 1.0, -0.5])))):
        np.testing.assert_allclose(scores(name, logits)[0].numpy(), powers / powers.sum(), rtol=1e-5)


def test_phimoe_is_softmax_though_saturated_sigmoids_would_fit_its_weights() -> None:
    logits, experts = torch.tensor([[[9.0, 7.0, -1.0]]]), torch.tensor([[[0, 1]]])
    assert fitting_score(logits, experts, torch.ones(1, 1, 2)) == "sigmoid"
    assert GateRecorder(model_of("phimoe")).score == "softmax"


def test_rows_are_the_real_tokens_alone() -> None:
    tokens, mask = padded((5, 9, 14))
    for row, one in enumerate(record(model_of("mixtral"), tokens, mask)):
        prompt = tokens[row][mask[row] == 1]
        length = len(prompt)
        np.testing.assert_array_equal(one.token[:length], prompt.numpy())
        assert one.iteration.tolist() == [0] * length + [1, 2, 3]
        assert one.position.tolist() == list(range(length + 3))
        assert one.gate.shape == (length + 3, 3, 8)
        assert one.experts.shape == (length + 3, 3, 2)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "phimoe", "olmoe"])
def test_a_padded_request_has_the_gates_that_it_has_alone(family: str) -> None:
    model = model_of(family)
    tokens, mask = padded((5, 9, 14))
    together = record(model, tokens, mask)
    for row, one in enumerate(together):
        prompt = tokens[row][mask[row] == 1][None]
        (alone,) = record(model, prompt, torch.ones_like(prompt))
        np.testing.assert_array_equal(one.token, alone.token)
        np.testing.assert_allclose(one.gate.astype(np.float32), alone.gate.astype(np.float32), atol=2e-3)


def test_without_a_mask_all_tokens_are_real() -> None:
    tokens, _ = padded((6, 6))
    with GateRecorder(model_of("mixtral")) as recorder:
        generate(model_of("mixtral"), tokens, None)
    assert recorder.take()[0].real.all()


def test_tokens_are_those_that_generate_gives_without_recording() -> None:
    model = model_of("mixtral")
    tokens, mask = padded((5, 9, 14))
    generated = generate(model, tokens, mask)[:, tokens.shape[1] :]
    for row, one in enumerate(record(model, tokens, mask)):
        # The last token that is generated is never computed.
        np.testing.assert_array_equal(one.token[one.iteration > 0], generated[row, :-1].numpy())


def test_iterations_after_the_end_of_a_request_are_dropped() -> None:
    model = model_of("mixtral")
    tokens, mask = padded((5, 9, 14))
    free = generate(model, tokens, mask)[:, tokens.shape[1] :]
    end = int(free[2, 1])  # the second token of request 2 shall end it
    counts = [next((i + 1 for i, token in enumerate(row) if token == end), NEW_TOKENS) for row in free.tolist()]
    assert counts == [NEW_TOKENS, NEW_TOKENS, 2]
    unstopped = record(model, tokens, mask)
    with GateRecorder(model) as recorder:
        generate(model, tokens, mask, eos_token_id=end)
    for one, whole, count in zip(
        requests_of(recorder.take(), counts, range(3), [""] * 3), unstopped, counts, strict=True
    ):
        rows = int((whole.iteration < count).sum())
        assert one.iteration[-1] == count - 1
        np.testing.assert_array_equal(one.gate, whole.gate[:rows])
        np.testing.assert_array_equal(one.token, whole.token[:rows])


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - NOT_A_MATRIX))
def test_lookahead_is_the_later_router_on_the_earlier_hidden_state(family: str) -> None:
    model = model_of(family)
    blocks = moe_blocks(model)
    with spied(model) as seen, GateRecorder(model, lookahead=(1,)) as recorder, torch.no_grad():
        model(input_ids=padded((9,))[0])
    ahead = recorder.take()[0].lookahead[1]  # [1, 9, L, J]
    for layer in range(len(blocks) - 1):
        hidden = seen["hidden"][layer][0]
        wanted = expected_gate(blocks[layer + 1].router, hidden, sigmoid=family in SIGMOID)
        np.testing.assert_allclose(ahead[0, :, layer], wanted, atol=6e-4)
    assert not ahead[:, :, -1].any()


def test_lookahead_of_several_distances_and_of_none() -> None:
    model = model_of("mixtral")
    tokens, mask = padded()
    both = record(model, tokens, mask, lookahead=(2, 1))[0]
    assert list(both.lookahead) == [1, 2]
    assert not both.lookahead[2][:, 1:].any()
    np.testing.assert_allclose(both.lookahead[2][:, 0].sum(-1, dtype=np.float32), 1, atol=5e-3)
    far = record(model, tokens, mask, lookahead=(2,))[0]
    np.testing.assert_array_equal(far.lookahead[2], both.lookahead[2])
    assert record(model, tokens, mask)[0].lookahead == {}


def test_lookahead_survives_a_block_that_overwrites_its_input() -> None:
    model = tiny_model("mixtral")
    wanted = record(model, *padded(), lookahead=(1,))[0].lookahead[1]
    experts = moe_blocks(model)[0].experts
    original = experts.forward

    def overwriting(hidden: torch.Tensor, *args: Any) -> torch.Tensor:
        output = original(hidden, *args)
        hidden.zero_()
        return output

    experts.forward = overwriting  # type: ignore[method-assign]
    np.testing.assert_array_equal(record(model, *padded(), lookahead=(1,))[0].lookahead[1], wanted)


def test_a_recorder_leaves_no_hook_behind() -> None:
    model = tiny_model("mixtral")
    with pytest.raises(ZeroDivisionError), GateRecorder(model):
        raise ZeroDivisionError
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize(
    ("family", "dtype"),
    slow_but(
        [*product(["mixtral", "phimoe", "deepseek_v3", "gpt_oss", "gemma4_text"], [torch.float32, torch.bfloat16])],
        *product(["deepseek_v3", "gpt_oss", "gemma4_text"], [torch.float32]),
        *product(["mixtral", "phimoe"], [torch.bfloat16]),
    ),
    ids=str,
)
def test_looking_ahead_by_the_matrix_alone_gives_the_bits_of_the_routers_forward(
    family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(family, dtype=dtype)
    shortened = record(model, *padded(), lookahead=(1, 2))
    monkeypatch.setattr("traces.capture.gate_recorder.product_type", lambda *args: None)
    for short, whole in zip(shortened, record(model, *padded(), lookahead=(1, 2)), strict=True):
        for distance in (1, 2):
            np.testing.assert_array_equal(short.lookahead[distance], whole.lookahead[distance])


def test_a_router_that_does_more_than_a_product_is_not_shortened() -> None:
    router = torch.nn.Linear(6, 4, bias=False)
    seen = torch.randn(5, 6)
    logits = router(seen).detach()
    assert product_type(router, seen, logits) == torch.float32
    assert product_type(router, seen, logits.clamp(max=0.1)) is None
    assert product_type(torch.nn.Linear(6, 4), seen, logits) is None  # it has a bias
    assert product_type(torch.nn.LayerNorm(6), seen, logits) is None
    assert product_type(torch.nn.Linear(6, 4, device="meta"), seen, logits) is None  # its weights are away


@pytest.mark.parametrize(
    ("family", "away"),
    slow_but(
        [*product(["mixtral", "qwen2_moe", "deepseek_v3", "gpt_oss"], ["host", "disk"])],
        *(("mixtral", "host"), ("gpt_oss", "host"), ("deepseek_v3", "disk")),
    ),
)
def test_weights_that_accelerate_brings_when_they_are_needed_change_nothing(
    family: str, away: str, tmp_path: Path
) -> None:
    wanted = record(model_of(family), *padded(), lookahead=(1,))
    model = tiny_model(family)
    place = torch.device("cpu")
    if away == "disk":
        accelerate.disk_offload(model, str(tmp_path), execution_device=place)
    else:
        accelerate.cpu_offload(model, execution_device=place)
    assert moe_blocks(model)[0].router.weight.device.type == "meta"
    for one, other in zip(record(model, *padded(), lookahead=(1,)), wanted, strict=True):
        np.testing.assert_array_equal(one.token, other.token)
        np.testing.assert_array_equal(one.experts, other.experts)
        np.testing.assert_array_equal(one.gate, other.gate)
        np.testing.assert_array_equal(one.lookahead[1], other.lookahead[1])
