"""What the recorder hears is what the model did, and the model does what it does without it."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import HIDDEN, PAD, SETTINGS, padded, tiny_model

from policies.errors import UserError
from policies.types import RecordedRequest
from traces.capture import GateRecorder, requests_of
from traces.hf_shape import moe_blocks, shape_of
from traces.scores import fitting_score, scores

UNSUPPORTED = {"llama", "jetmoe", "llama4_text"}
FAMILIES = sorted(set(SETTINGS) - UNSUPPORTED)
SIGMOID = {"deepseek_v3", "glm4_moe", "minimax_m2", "lfm2_moe", "dots1", "afmoe"}
NOT_A_MATRIX = {"gemma4_text"}  # its router normalises and scales before its matrix
NEW_TOKENS = 4

model_of = cache(tiny_model)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@contextmanager
def spied(model: Any) -> Iterator[dict[str, dict[int, list[Any]]]]:
    """What routers and experts receive, seen from inside by other means than hooks: their `forward` is replaced."""
    seen: dict[str, dict[int, list[Any]]] = {"hidden": defaultdict(list), "indices": defaultdict(list)}
    blocks = moe_blocks(model)

    def listen(layer: int, module: Any, kind: str, place: int) -> None:
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            seen[kind][layer].append((*args, *kwargs.values())[place].clone())
            return original(*args, **kwargs)

        module.forward = forward

    for layer, block in enumerate(blocks):
        listen(layer, block.router, "hidden", 0)
        listen(layer, block.experts, "indices", 1)
    try:
        yield seen
    finally:
        for block in blocks:
            del block.router.forward, block.experts.forward


def matrix_of(router: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The router's weights `[J, h]` and bias."""
    weight = next(value for value in router.parameters() if value.dim() == 2)
    return weight, router.bias if isinstance(getattr(router, "bias", None), torch.Tensor) else None


def expected_gate(router: Any, hidden: torch.Tensor, *, sigmoid: bool) -> np.ndarray:
    """`[T, J]`, worked out from the hidden state in double precision."""
    weight, bias = matrix_of(router)
    logits = hidden.reshape(-1, hidden.shape[-1]).double() @ weight.detach().double().T
    logits = logits if bias is None else logits + bias.detach().double()
    if sigmoid:
        score = 1 / (1 + torch.exp(-logits))
        return (score / score.sum(-1, keepdim=True)).numpy()
    return (torch.exp(logits) / torch.exp(logits).sum(-1, keepdim=True)).numpy()


def generate(model: Any, tokens: torch.Tensor, mask: torch.Tensor | None, **keywords: Any) -> torch.Tensor:
    keywords = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": PAD} | keywords
    output: torch.Tensor = model.generate(input_ids=tokens, attention_mask=mask, **keywords)
    return output


def record(model: Any, tokens: torch.Tensor, mask: torch.Tensor, **keywords: Any) -> list[RecordedRequest]:
    """Recordings of a batch in which nothing ends early."""
    with GateRecorder(model, **keywords) as recorder:
        generate(model, tokens, mask)
    rows = range(len(tokens))
    return requests_of(recorder.take(), [NEW_TOKENS] * len(rows), rows, [""] * len(rows))


@pytest.mark.parametrize("family", FAMILIES)
def test_executed_experts_are_those_that_the_experts_received(family: str) -> None:
    model = model_of(family)
    with spied(model) as seen, GateRecorder(model) as recorder:
        generate(model, *padded())
    passes = recorder.take()
    assert len(passes) == NEW_TOKENS
    for layer in range(len(moe_blocks(model))):
        for one, indices in zip(passes, seen["indices"][layer], strict=True):
            np.testing.assert_array_equal(one.experts[:, :, layer].reshape(len(indices), -1), indices.numpy())


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - NOT_A_MATRIX))
def test_probabilities_are_the_score_of_the_routers_logits(family: str) -> None:
    model = model_of(family)
    with spied(model) as seen, GateRecorder(model) as recorder:
        generate(model, *padded())
    passes = recorder.take()
    for layer, block in enumerate(moe_blocks(model)):
        for one, hidden in zip(passes, seen["hidden"][layer], strict=True):
            wanted = expected_gate(block.router, hidden, sigmoid=family in SIGMOID)
            assert one.gate.dtype == np.float16
            np.testing.assert_allclose(one.gate[:, :, layer].reshape(wanted.shape), wanted, atol=6e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
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


def test_scores_sum_to_one() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    for name, powers in (("softmax", np.exp([2.0, -1.0, 0.5])), ("sigmoid", 1 / (1 + np.exp([-2.0, 1.0, -0.5])))):
        np.testing.assert_allclose(scores(name, logits)[0].numpy(), powers / powers.sum(), rtol=1e-5)


def test_phimoe_is_softmax_though_saturated_sigmoids_would_fit_its_weights() -> None:
    logits, experts = torch.tensor([[[9.0, 7.0, -1.0]]]), torch.tensor([[[0, 1]]])
    assert fitting_score(logits, experts, torch.ones(1, 1, 2)) == "sigmoid"
    assert GateRecorder(model_of("phimoe")).score == "softmax"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "phimoe", "olmoe", "deepseek_v3", "gpt_oss"])
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
    ("family", "said"),
    [
        ("llama", r"'llama' has no experts"),
        ("jetmoe", r"no router .* beside the experts found in block model\.layers\.0\.self_attention"),
        ("llama4_text", r"experts of block model\.layers\.0\.feed_forward are called without the indices"),
    ],
)
def test_an_unsupported_model_is_told_what_is_missing(family: str, said: str) -> None:
    model = tiny_model(family)
    with pytest.raises(UserError, match=said), GateRecorder(model), torch.no_grad():
        model(input_ids=padded((5,))[0])


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
