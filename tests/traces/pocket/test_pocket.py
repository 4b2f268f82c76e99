"""The pocket model that ships with the project, and the code that trained it."""

import dataclasses
import functools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from traces import pocket
from traces.pocket.recipe import POCKET, Architecture, Training, as_json
from traces.pocket_training.corpus import DOMAINS, Corpus, Piece
from traces.pocket_training.extract import dialogue
from traces.pocket_training.sources import SOURCES

torch = pytest.importorskip("torch", reason="the pocket model needs torch")
transformers = pytest.importorskip("transformers", reason="the pocket model needs transformers")

from traces.pocket_training.build import build, routers, untrained  # noqa: E402  # after the skips, as all that needs torch
from traces.pocket_training.card import card, facts, samples  # noqa: E402
from traces.pocket_training.evaluate import evaluate, gate_entropy, read, read_tokens, request_entropy  # noqa: E402
from traces.pocket_training.recall import Routing, expert_load, recall  # noqa: E402
from traces.pocket_training.tokenizer import PAD_ID, SPECIAL_TOKENS  # noqa: E402
from traces.pocket_training.train import balance_loss, batches, learning_rate, make, train  # noqa: E402

DECODED = 24  # tokens that continue a demo prompt in the recall check
TINY = Architecture(
    family="mixtral",
    layers=2,
    experts=4,
    top_k=2,
    hidden=16,
    expert_ffn=16,
    attention_heads=2,
    kv_heads=1,
    vocabulary=300,
)


@pytest.fixture(scope="module")
def trained():
    return pocket.load()


@pytest.fixture(scope="module")
def control():
    return untrained(POCKET.architecture, POCKET.seed)


@pytest.fixture(scope="module")
def conversations(trained):
    """Ids and prompt lengths of demo prompts with the trained model's continuation, which both models read."""
    model, tokenizer = trained
    prompts = [row["prompt"] for row in pocket.demo_prompts()[::4]]
    ids = tokenizer(prompts, return_tensors="pt", padding=True)
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    output = model.generate(**ids, do_sample=True, temperature=0.8, min_new_tokens=DECODED, max_new_tokens=DECODED)
    torch.random.set_rng_state(generator_state)
    width = ids["input_ids"].shape[1]
    lengths = ids["attention_mask"].sum(1).tolist()
    return [(row[width - length :].tolist(), length) for row, length in zip(output, lengths, strict=True)]


@pytest.fixture(scope="module")
def routings(trained, conversations) -> list[Routing]:
    """What the trained model makes of them."""
    return routing_of(trained[0], conversations)


def routing_of(model, conversations) -> list[Routing]:
    return [read_tokens(model, ids, prompt=length, distances=(1, 2, 3)).routing for ids, length in conversations]


# the committed checkpoint


def test_the_checkpoint_loads_with_the_stated_shape(trained):
    model, tokenizer = trained
    config, shape = model.config, POCKET.architecture
    assert type(model).__name__ == "MixtralForCausalLM"
    assert (config.num_hidden_layers, config.num_local_experts, config.num_experts_per_tok) == (8, 8, 2)
    assert (config.hidden_size, config.intermediate_size) == (64, 96)
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 2)
    assert config.tie_word_embeddings
    assert config.vocab_size == len(tokenizer) == shape.vocabulary == 4096
    assert config.max_position_embeddings == shape.max_positions == 1024
    assert next(model.parameters()).dtype == torch.float32
    assert len(routers(model)) == 8


def test_the_checkpoint_is_small_and_stored_in_bfloat16():
    from safetensors import safe_open

    path = pocket.model_dir("pocket") / "model.safetensors"
    assert path.stat().st_size <= 4 * 2**20
    with safe_open(path, framework="pt") as tensors:
        names = list(tensors.keys())
        assert {tensors.get_slice(name).get_dtype() for name in names} == {"BF16"}


def test_generation_is_deterministic_and_in_the_manner_of_the_prompt(trained):
    model, tokenizer = trained
    ids = tokenizer("<|user|>\nCalculate 12 + 30.\n<|assistant|>\n", return_tensors="pt")
    first, second = (model.generate(**ids, max_new_tokens=12, do_sample=False) for _ in range(2))
    assert torch.equal(first, second)
    assert tokenizer.decode(first[0, ids["input_ids"].shape[1] :]).startswith("The answer is ")


def test_left_padding_does_not_change_what_is_generated(trained):
    model, tokenizer = trained
    prompts = ["KING.\nWhat news,", "<|user|>\nDefine the word lantern.\n<|assistant|>\n"]
    together = tokenizer(prompts, return_tensors="pt", padding=True)
    assert together["input_ids"][0, 0] == PAD_ID
    batch = model.generate(**together, max_new_tokens=8, min_new_tokens=8, do_sample=False)
    for row, prompt in zip(batch, prompts, strict=True):
        alone = model.generate(
            **tokenizer(prompt, return_tensors="pt"), max_new_tokens=8, min_new_tokens=8, do_sample=False
        )
        assert torch.equal(row[-8:], alone[0, -8:])


def test_the_trained_model_predicts_text_that_the_untrained_control_does_not(trained, control):
    model, tokenizer = trained
    texts = [row["prompt"] for row in pocket.demo_prompts()[::8]]

    def loss(of) -> float:
        readings = read(of, tokenizer, texts)
        return sum(reading.loss for reading in readings) / sum(reading.predicted for reading in readings)

    assert loss(control) > math.log(4096) - 0.2
    assert loss(model) < loss(control) - 2.5


def test_the_model_card_states_the_recipe_and_the_corpus():
    card = (pocket.model_dir("pocket") / "README.md").read_text(encoding="utf-8")
    for fact in (
        f"{POCKET.training.tokens:,} tokens",
        f"seeds | {POCKET.seed} for weights",
        "bfloat16",
        "python -m traces.pocket_training",
    ):
        assert fact in card
    for used in SOURCES:
        assert used.sha256 in card
        assert used.licence in card


def test_the_committed_training_used_the_recipe_that_the_code_states():
    noted = json.loads((pocket.model_dir("pocket") / "training.json").read_text(encoding="utf-8"))
    stated = as_json(POCKET)
    assert stated["architecture"].pop("shared_ffn") == 0  # these two fields came with the twins
    assert stated.pop("original") == ""
    assert noted["recipe"] == stated
    assert noted["threads"] == 1


# fine against coarse


def test_only_the_trained_model_shows_that_fine_grained_prediction_beats_coarse(routings, control, conversations):
    theirs = routing_of(control, conversations)
    for one in recall(routings[0::2], routings[1::2], (1, 2, 3)):
        assert one.fine > one.coarse + 0.1  # measured: 0.26 to 0.32
        assert one.coarse > one.popularity
    for one in recall(theirs[0::2], theirs[1::2], (1, 2, 3)):
        assert one.fine < one.coarse


def test_every_expert_of_the_trained_model_is_used(routings):
    assert expert_load(routings).min() > 0.02
    assert max(gate_entropy(routings)) < 2.5  # of 3 bits: gates prefer some experts
    assert (request_entropy(routings) > gate_entropy(routings)).all()  # and not the same ones for all tokens


# tokenizer


@settings(max_examples=200)
@given(st.text())
def test_any_text_survives_the_tokenizer(text):
    tokenizer = _tokenizer()
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@functools.cache
def _tokenizer():
    return transformers.AutoTokenizer.from_pretrained(pocket.model_dir("pocket"))


def test_markers_are_single_tokens_and_nothing_is_added(trained):
    _, tokenizer = trained
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3]
    ids = tokenizer("<|user|>\nHi\n<|assistant|>\n")["input_ids"]
    assert ids[0] == 1
    assert ids.count(2) == 1
    assert tokenizer.padding_side == "left"
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, PAD_ID)


def test_the_chat_template_writes_what_the_model_was_trained_on(trained):
    _, tokenizer = trained
    talk = [{"role": "user", "content": "Hello"}]
    text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>\nHello\n<|assistant|>\n"
    talk += [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Bye"}]
    assert tokenizer.apply_chat_template(talk, tokenize=False) == dialogue("Hello", "Hi", "Bye")


def test_demo_prompts_are_48_short_texts_of_all_kinds(trained):
    _, tokenizer = trained
    rows = pocket.demo_prompts()
    assert len(rows) == len({row["prompt"] for row in rows}) == 48
    assert {row["source"] for row in rows} == set(DOMAINS)
    assert max(len(tokenizer(row["prompt"])["input_ids"]) for row in rows) <= 64


# training


def test_balance_loss_is_its_definition():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
    probs = [[math.exp(x) / sum(math.exp(y) for y in row) for x in row] for row in logits.tolist()]
    mean = [sum(column) / 2 for column in zip(*probs, strict=True)]
    share = [1 / 4, 1 / 4, 2 / 4]  # token 0 takes experts 0 and 2, token 1 takes 1 and 2
    expected = 3 * sum(f * p for f, p in zip(share, mean, strict=True))
    assert balance_loss([logits], top_k=2).item() == pytest.approx(expected)
    other = torch.zeros(2, 3)
    assert balance_loss([logits, other], top_k=2).item() == pytest.approx((expected + 1) / 2)


def test_balance_loss_is_1_for_uniform_routing_and_larger_for_collapsed_routing():
    assert balance_loss([torch.zeros(5, 8)], top_k=2).item() == pytest.approx(1.0)
    taking_turns = 20 * torch.eye(8)
    assert balance_loss([taking_turns], top_k=1).item() == pytest.approx(1.0)
    collapsed = torch.zeros(5, 8)
    collapsed[:, 0] = 20.0
    assert balance_loss([collapsed], top_k=1).item() == pytest.approx(8.0)


def test_balance_is_kept_in_each_layer_not_only_over_all():
    one = torch.tensor([[20.0, 0.0]])
    assert balance_loss([one, one.flip(1)], top_k=1).item() == pytest.approx(2.0)


def test_a_few_steps_lower_the_loss_and_repeat_exactly():
    tokens = np.random.default_rng(0).integers(0, 40, 4000).astype(np.uint16)
    training = Training(steps=12, batch=4, window=32, warmup_steps=2)
    losses, weights = [], []
    for _ in range(2):
        model = build(TINY, seed=3)
        losses.append(train(model, tokens, training, TINY.top_k, seed=5))
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert losses[0][-1] < losses[0][0] - 0.5
    assert losses[0] == losses[1]
    assert torch.equal(*weights)


def test_building_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    assert torch.equal(routers(build(TINY, 1))[0].weight, routers(build(TINY, 1))[0].weight)
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_unknown_family_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'mixtral'"):
        build(dataclasses.replace(TINY, family="mixtrall"), seed=0)


def test_every_window_comes_once_before_any_comes_again():
    training = Training(steps=4, batch=2, window=4)
    tokens = np.arange(16, dtype=np.uint16)
    firsts = [int(row[0]) for batch in batches(tokens, training, seed=1) for row in batch]
    assert sorted(firsts[:4]) == sorted(firsts[4:]) == [0, 4, 8, 12]


def test_a_corpus_smaller_than_a_batch_is_refused():
    with pytest.raises(UserError, match="only 3 tokens"):
        next(batches(np.arange(3, dtype=np.uint16), Training(steps=1, batch=1, window=4), seed=0))


def test_the_rate_warms_up_and_falls_to_its_floor():
    training = POCKET.training
    rates = [learning_rate(step, training) for step in range(training.steps)]
    assert rates[0] < 0.03 * training.peak_rate
    assert max(rates) == pytest.approx(training.peak_rate, rel=0.01)
    assert rates[-1] == pytest.approx(training.final_rate * training.peak_rate, rel=0.01)


def test_a_tiny_model_is_made_measured_and_described_from_end_to_end(tmp_path):
    code, drama = "def f(x):\n    return x\n" * 9, "KING.\nMy lord.\n" * 9
    pieces = [Piece("code", "train", code), Piece("drama", "train", drama), *[Piece("code", "held-out", code)] * 4]
    corpus = Corpus(tuple(pieces), {"sha256": "of a test", "domains": []})
    recipe = dataclasses.replace(
        POCKET, name="tiny", architecture=TINY, training=Training(steps=2, batch=1, window=16, warmup_steps=1)
    )
    make(recipe, corpus, tmp_path / "model", progress=False)
    model, tokenizer = pocket.load(folder=tmp_path / "model")
    noted = facts(tmp_path / "model")
    assert noted["tokens_seen"] == 32
    assert not (tmp_path / "model.partial").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    measured = evaluate(model, tokenizer, Corpus(tuple(pieces[2:]), corpus.account))
    assert [one.distance for one in measured.recalls] == [1]
    assert measured.recalls[0].fine == 1.0  # all texts are the same
    text = card(recipe, "Tiny", noted, measured, measured, samples(model, tokenizer), "## On traces")
    for said in (
        f"| code | {measured.tokens['code']:,} |",
        "fine beats coarse",
        "| 1 | 1.000 |",
        "\n\n## On traces\n\n",
        "training loss",
    ):
        assert said in text
    with pytest.raises(UserError, match="not an empty folder"):
        make(recipe, corpus, tmp_path / "model", progress=False)


def test_a_folder_without_a_model_is_a_one_line_error(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        pocket.load(folder=tmp_path)
