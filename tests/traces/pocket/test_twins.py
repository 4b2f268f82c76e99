"""The pocket twins: small trained models with the routing topology of published ones."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from tests.support.slow_cases import slow_but
from traces.pocket import DEMO_PROMPTS, demo_prompts, load, model_dir
from traces.pocket.recipe import POCKET, RECIPES, TWINS, Architecture, Recipe, Training, as_json, recipe_of
from traces.published_models import PUBLISHED

torch = pytest.importorskip("torch", reason="the twins need torch")
pytest.importorskip("transformers", reason="the twins need transformers")

from traces.capture.gate_recorder import GateRecorder  # noqa: E402  # after the skips, as all that needs torch
from traces.capture.model_loading import load as load_to_record  # noqa: E402
from traces.capture.model_structure import shape_of  # noqa: E402
from traces.pocket_training.build import build, routers  # noqa: E402
from traces.pocket_training.evaluate import gate_entropy, read, request_entropy  # noqa: E402
from traces.pocket_training.recall import expert_load, recall  # noqa: E402
from traces.pocket_training.train import train  # noqa: E402

MODELS = Path(str(model_dir(POCKET.name))).parent
LIMIT_BYTES = 60_000_000
TINY = Architecture(
    family="mixtral",
    layers=2,
    experts=6,
    top_k=2,
    hidden=16,
    expert_ffn=16,
    shared_ffn=24,
    attention_heads=2,
    kv_heads=1,
    vocabulary=300,
)


@pytest.fixture(scope="module", params=TWINS, ids=lambda twin: twin.name)
def twin(request: pytest.FixtureRequest) -> Recipe:
    return request.param


@pytest.fixture(scope="module")
def loaded(twin: Recipe) -> Any:
    return load(twin.name)


@pytest.fixture(scope="module")
def readings(loaded: Any) -> Any:
    """What the twin makes of every third demo prompt; these are in no corpus."""
    model, tokenizer = loaded
    texts = [row["prompt"] for row in demo_prompts()[::3]]
    return [reading.routing for reading in read(model, tokenizer, texts, prompt=4, distances=(1, 3))]


def card_of(twin: Recipe) -> str:
    return (model_dir(twin.name) / "README.md").read_text(encoding="utf-8")


def noted(twin: Recipe) -> dict[str, Any]:
    return json.loads((model_dir(twin.name) / "training.json").read_text(encoding="utf-8"))


# what is committed


def test_the_papers_three_models_have_a_twin_each() -> None:
    assert [twin.name for twin in TWINS] == ["mixtral-8x7b-twin", "qwen1.5-moe-a2.7b-twin", "phi-3.5-moe-twin"]
    assert sorted(path.name for path in MODELS.iterdir()) == sorted(RECIPES)


@pytest.mark.parametrize("twin", slow_but(TWINS, TWINS[0]), indirect=True, ids=lambda twin: twin.name)
def test_a_twin_has_the_routing_topology_of_the_published_model(twin: Recipe, loaded: Any) -> None:
    shape, original = shape_of(loaded[0], name=twin.name), PUBLISHED[twin.original]
    assert (shape.layers, shape.experts, shape.top_k) == (original.layers, original.experts, original.top_k)
    assert (shape.shared_ffn > 0) == (original.shared_ffn > 0)
    assert shape.hidden == 64


def test_the_topologies_are_those_of_the_paper() -> None:
    sizes = {
        twin.original: (twin.architecture.layers, twin.architecture.experts, twin.architecture.top_k) for twin in TWINS
    }
    assert sizes == {"mixtral-8x7b": (32, 8, 2), "qwen1.5-moe-a2.7b": (24, 60, 4), "phi-3.5-moe": (32, 16, 2)}


def test_all_committed_models_together_are_small_and_in_bfloat16() -> None:
    from safetensors import safe_open

    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) <= LIMIT_BYTES
    for name in RECIPES:
        with safe_open(model_dir(name) / "model.safetensors", framework="pt") as tensors:
            assert {tensors.get_slice(key).get_dtype() for key in tensors.keys()} == {"BF16"}  # noqa: SIM118


def test_a_twin_was_trained_by_the_recipe_that_the_code_states(twin: Recipe) -> None:
    assert noted(twin)["recipe"] == as_json(twin)
    assert noted(twin)["threads"] == 1


def test_the_card_agrees_with_the_notes_of_the_training(twin: Recipe) -> None:
    from safetensors import safe_open

    facts, card = noted(twin), " ".join(card_of(twin).split())
    with safe_open(model_dir(twin.name) / "model.safetensors", framework="pt") as tensors:
        shapes = [tensors.get_slice(key).get_shape() for key in tensors.keys()]  # noqa: SIM118
    assert facts["parameters"] == sum(map(math.prod, shapes))
    for said in (
        f"# FineMoE Lab: {twin.name}",
        f"{facts['parameters'] / 1e6:.2f} M parameters",
        f"= {facts['tokens_seen']:,} tokens",
        f"{facts['tokens_in_corpus']:,} training tokens",
        f"{facts['last_100_steps_loss']:.3f}, mean of the last 100 steps",
        f"`{facts['corpus']['sha256']}`",
        "none of the original's weights",
    ):
        assert said in card


def test_the_card_says_whether_fine_or_coarse_recall_is_higher(twin: Recipe) -> None:
    card = card_of(twin)
    rows = re.findall(r"^\| (\d) \| ([\d.]+) \| ([\d.]+) \|", card.partition("The untrained control")[0], re.MULTILINE)
    assert [int(distance) for distance, *_ in rows] == [1, 2, 3, 4, 6]
    if all(float(fine) > float(coarse) for _, fine, coarse in rows):
        assert "In this model, fine beats coarse at every distance" in card
    else:
        assert "In this model, fine beats coarse at every distance" not in card


def test_the_documentation_repeats_what_the_cards_say(twin: Recipe) -> None:
    document = (Path(__file__).parents[3] / "docs" / "pocket-models.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{re.escape(twin.name)}` \|.*$", document, re.MULTILINE)
    *_, loss, entropy, recalls, same = (cell.strip() for cell in row.strip("|").split("|"))
    card = " ".join(card_of(twin).split())
    (reported,) = re.findall(r"\| all \| [\d,]+ \| ([\d.]+) \|", card)
    assert float(loss) == pytest.approx(float(reported), abs=0.0051)
    token, text, uniform = entropy.split(" / ")
    assert f"(uniform: {uniform}), mean over layers: {token} for single tokens, {text} for a text's mean gate." in card
    *shares, share = re.findall(r"\| 3 \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", card)[0]
    assert recalls == " / ".join(shares)
    assert same == share


# how the committed models behave


@pytest.mark.parametrize("twin", slow_but(TWINS, TWINS[0]), indirect=True, ids=lambda twin: twin.name)
def test_generation_is_deterministic_and_in_the_manner_of_the_prompt(loaded: Any) -> None:
    model, tokenizer = loaded
    ids = tokenizer("<|user|>\nCalculate 12 + 30.\n<|assistant|>\n", return_tensors="pt")
    first, second = (model.generate(**ids, max_new_tokens=8, do_sample=False) for _ in range(2))
    assert torch.equal(first, second)
    assert tokenizer.decode(first[0, ids["input_ids"].shape[1] :]).startswith("The answer is ")


@pytest.mark.parametrize("twin", slow_but(TWINS, TWINS[0]), indirect=True, ids=lambda twin: twin.name)
def test_a_twin_specialises_by_token_and_fine_beats_coarse(readings: Any) -> None:
    assert (request_entropy(readings) > gate_entropy(readings)).all()
    for one in recall(readings[0::2], readings[1::2], (1, 3)):
        assert one.fine > one.coarse > one.popularity


@pytest.mark.parametrize("twin", slow_but(TWINS, TWINS[0]), indirect=True, ids=lambda twin: twin.name)
def test_the_executed_experts_are_the_most_probable(readings: Any) -> None:
    for text in readings[:4]:
        gate = text.gate.astype(np.float32)
        chosen = np.take_along_axis(gate, text.experts.astype(np.int64), axis=-1)
        top_k = text.experts.shape[2]
        assert np.allclose(np.sort(chosen, axis=-1), np.sort(gate, axis=-1)[..., -top_k:], atol=1e-3)


@pytest.mark.parametrize("twin", slow_but(TWINS, TWINS[0]), indirect=True, ids=lambda twin: twin.name)
def test_no_more_experts_are_idle_than_the_card_says(twin: Recipe, readings: Any) -> None:
    (idle,) = re.findall(r"Experts that no held-out token executed: (\d+) of", " ".join(card_of(twin).split()))
    load = expert_load(readings)
    assert (load == 0).sum() <= int(
        idle
    ) + 0.02 * load.size  # the prompts are a hundredth of what the card was measured on


@pytest.mark.parametrize("twin", slow_but(TWINS, TWINS[0]), indirect=True, ids=lambda twin: twin.name)
def test_a_twin_is_recorded_simulated_and_drawn_under_its_own_name(
    twin: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sim.__main__ import main as simulate
    from traces.__main__ import main as trace

    recorded, results, picture = (tmp_path / name for name in ("a.trace", "results", "a.svg"))
    words = ["--prompts", str(DEMO_PROMPTS), "--limit", "2", "--max-new-tokens", "3", "--threads", "1"]
    assert trace(["collect", twin.name, *words, "--out", str(recorded)]) == 0
    assert trace(["info", str(recorded)]) == 0
    assert twin.name in capsys.readouterr().out
    sizes = ["--sizes", twin.original, "--machine", "rtx3090x6", "--cache-share", "0.5", "--policy", "lru"]
    assert simulate(["run", str(recorded), *sizes, "--out", str(results)]) == 0
    assert f"routing of {twin.name}) with the sizes of {twin.original}" in " ".join(capsys.readouterr().out.split())
    assert simulate(["plot", str(results), "--out", str(picture)]) == 0
    assert f"routing of {twin.name} with the sizes of {twin.original}" in picture.read_text()


@pytest.mark.parametrize("twin", slow_but(TWINS, TWINS[0]), indirect=True, ids=lambda twin: twin.name)
def test_a_loaded_twin_bears_its_name(twin: Recipe) -> None:
    loaded = load_to_record(twin.name)
    assert loaded.name == twin.name
    assert loaded.dtype == "float32"


def test_an_unknown_model_offers_the_nearest() -> None:
    with pytest.raises(UserError, match=r"did you mean 'phi-3\.5-moe-twin'"):
        recipe_of("phi-3.5-twin")


def test_a_twin_is_not_evaluated_as_another_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from traces.pocket_training.__main__ import main

    folder = model_dir(TWINS[0].name)
    assert main(["evaluate", "--folder", str(folder), "--cache", str(tmp_path)]) == 2
    reported = f"error: --model: must be mixtral-8x7b-twin, the recipe that trained {folder}, not pocket\n"
    assert capsys.readouterr().err == reported


# the families


@pytest.mark.parametrize("family", slow_but(["mixtral", "qwen2_moe", "phimoe"], "qwen2_moe", "phimoe"))
def test_a_few_steps_of_each_family_lower_the_loss_and_repeat_exactly(family: str) -> None:
    tokens = np.random.default_rng(0).integers(0, 40, 4000).astype(np.uint16)
    training = Training(steps=12, batch=4, window=32, warmup_steps=2)
    losses, weights = [], []
    for elsewhere in (0, 1):
        torch.manual_seed(elsewhere)  # what was drawn before must not matter
        before = torch.random.get_rng_state()
        model = build(dataclasses.replace(TINY, family=family), seed=3)
        losses.append(train(model, tokens, training, TINY.top_k, seed=5))
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
        assert torch.equal(before, torch.random.get_rng_state())
    assert losses[0][-1] < losses[0][0] - 0.5
    assert losses[0] == losses[1]
    assert torch.equal(*weights)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "phimoe"])
def test_each_family_is_built_in_the_stated_shape(family: str) -> None:
    model = build(dataclasses.replace(TINY, family=family), seed=0)
    shape = shape_of(model, name=family)
    assert (shape.layers, shape.experts, shape.top_k, shape.hidden, shape.expert_ffn) == (2, 6, 2, 16, 16)
    assert shape.shared_ffn == (24 if family == "qwen2_moe" else 0)
    assert [router.weight.shape for router in routers(model)] == [(6, 16)] * 2
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


@pytest.mark.parametrize(("family", "whole"), [("mixtral", True), ("qwen2_moe", False)])
def test_the_weights_of_the_chosen_experts_sum_to_one_as_in_the_original(family: str, whole: bool) -> None:
    model = build(dataclasses.replace(TINY, family=family), seed=0).eval()
    sums: list[Any] = []
    with GateRecorder(model) as recorder, torch.inference_mode():
        recorder.blocks[0].experts.register_forward_pre_hook(lambda _, args: sums.append(args[2].sum(-1)))
        model(input_ids=torch.arange(9)[None])
    assert torch.allclose(sums[0], torch.ones(9), atol=1e-5) == whole
