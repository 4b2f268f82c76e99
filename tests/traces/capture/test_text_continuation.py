"""Continued texts: one pass gives the routing of decoding them token by token, and their own tokens."""

import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, LogitsProcessor
from transformers.models.mixtral.modeling_mixtral import MixtralRotaryEmbedding

from common.errors import FieldError, UserError
from policies.types import RecordedRequest
from tests.support.capture_helpers import FAMILIES, model_of
from tests.support.collect_helpers import command, numbers
from tests.support.slow_cases import slow_but
from tests.support.tiny_models import VOCABULARY, save_tiny, tiny_tokenizer
from traces.__main__ import main
from traces.capture.capture_settings import CollectSettings, Generation, Lengths, PlacedModel
from traces.capture.gate_recorder import GateRecorder, requests_of, requests_of_texts
from traces.capture.generation import TokenizedPrompt, generate, generation_config
from traces.capture.model_loading import LoadedModel, load
from traces.capture.text_continuation import divided_texts, read_through, rotary_limits
from traces.format.checks import check
from traces.format.reader import Trace
from traces.format.target import TraceTarget
from traces.pocket.recipe import RECIPES
from traces.prompts.prompt import Prompt
from traces.prompts.prompt_sets import PASSAGES, PromptChoice, read_prompts

PREFILL = 9
LONG, SHORT = (70, 41, 20, 10), (30, 21, 15, 10)  # words of texts


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("checkpoint") / "mixtral", "mixtral")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six texts of 12 to 60 words."""
    draw = random.Random(4)
    lines = [" ".join(f"w{draw.randrange(4, VOCABULARY)}" for _ in range(n)) for n in (45, 60, 12, 31, 45, 38)]
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(lines))
    return path


def collect(checkpoint: Path, texts: Path, out: Path, *options: str) -> list[str]:
    words = ["--continue-text", "--prompts", str(texts), "--batch-size", "4", "--out", str(out)]
    return ["collect", str(checkpoint), *words, *options]


def continued(checkpoint: Path, texts: Path, out: Path, *options: str) -> Trace:
    assert main(collect(checkpoint, texts, out, *options)) == 0
    return Trace.open(out)


class OwnTokens(LogitsProcessor):
    """Whatever the model says, each text goes on with its own next token."""

    def __init__(self, texts: list[TokenizedPrompt]) -> None:
        self.texts = texts
        self.step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        own = [text.continuation[min(self.step, len(text.continuation) - 1)] for text in self.texts]
        self.step += 1
        forced = torch.full_like(scores, -torch.inf)
        forced[torch.arange(len(own)), own] = 0
        return forced


def decoded(loaded: LoadedModel, texts: list[TokenizedPrompt]) -> list[RecordedRequest]:
    """The texts as an ordinary collection records them, were their tokens what the model generates."""
    counts = [len(text.continuation) for text in texts]
    config = generation_config(loaded, max_new_tokens=max(counts))
    with GateRecorder(loaded.model, lookahead=(1,)) as recorder:
        generate(loaded, texts, config, processors=[OwnTokens(texts)])
    return requests_of(recorder.take(), counts, range(len(texts)), [""] * len(texts))


def read(loaded: LoadedModel, texts: list[TokenizedPrompt]) -> list[RecordedRequest]:
    """The texts as one pass records them."""
    with GateRecorder(loaded.model, lookahead=(1,)) as recorder:
        read_through(loaded, texts)
    (whole,) = recorder.take()
    return requests_of_texts(whole, [len(text.tokens) for text in texts], range(len(texts)), [""] * len(texts))


def executed(some: list[RecordedRequest]) -> np.ndarray:
    """`[N, L, K]` of all rows of all requests, ascending."""
    return np.sort(np.concatenate([one.experts for one in some]), axis=2)


def gates(some: list[RecordedRequest]) -> np.ndarray:
    """`[N, L, J]` float32 of all rows of all requests."""
    return np.concatenate([one.gate for one in some]).astype(np.float32)


def assert_alike(some: list[RecordedRequest], others: list[RecordedRequest]) -> None:
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one.iteration, other.iteration)
        np.testing.assert_array_equal(one.position, other.position)
        np.testing.assert_array_equal(one.token, other.token)
        for ahead, wanted in ((one.gate, other.gate), (one.lookahead[1], other.lookahead[1])):
            np.testing.assert_allclose(ahead.astype(np.float32), wanted.astype(np.float32), atol=2e-3)
    assert (executed(some) == executed(others)).all(axis=2).mean() >= 0.999


@cache
def tiny(family: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    model = model_of(family, dtype=dtype)
    return LoadedModel(name=family, revision=None, model=model, tokenizer=tiny_tokenizer(), device=torch.device("cpu"))


def tiny_texts(loaded: LoadedModel, words: tuple[int, ...] = LONG) -> list[TokenizedPrompt]:
    draw = random.Random(2)
    texts = [" ".join(f"w{draw.randrange(4, VOCABULARY)}" for _ in range(count)) for count in words]
    prompts = [Prompt(text=text, source="s", line=line) for line, text in enumerate(texts, start=1)]
    return divided_texts(prompts, loaded, Lengths(prompt_tokens=PREFILL), where="t.txt")


def passages(loaded: LoadedModel, new_tokens: int) -> list[TokenizedPrompt]:
    texts = read_prompts(PASSAGES, PromptChoice(limit=8)).prompts
    return divided_texts(texts, loaded, Lengths(max_new_tokens=new_tokens), where=PASSAGES)


@pytest.mark.parametrize(
    ("family", "words"),
    [
        *slow_but([(family, LONG) for family in FAMILIES], ("gpt_oss", LONG)),  # its layers look back 64 tokens
        *((family, SHORT) for family in ("mixtral", "qwen2_moe", "deepseek_v3", "gemma4_text")),
        *((family, SHORT) for family in ("jamba", "minimax", "lfm2_moe")),
    ],
    ids=str,
)
def test_one_pass_has_the_routing_of_decoding_token_by_token(family: str, words: tuple[int, ...]) -> None:
    loaded = tiny(family)
    texts = tiny_texts(loaded, words)
    assert_alike(read(loaded, texts), decoded(loaded, texts))


@pytest.mark.parametrize(
    ("name", "new_tokens"), slow_but([("pocket", 8), *((name, 24) for name in RECIPES)], ("pocket", 8))
)
def test_so_it_is_for_the_models_that_ship_with_the_project(name: str, new_tokens: int) -> None:
    loaded = load(name)
    texts = passages(loaded, new_tokens)
    assert_alike(read(loaded, texts), decoded(loaded, texts))


@pytest.mark.parametrize("family", slow_but(FAMILIES, "mixtral"))
def test_in_bfloat16_only_rounding_chooses_other_experts_now_and_then(family: str) -> None:
    """Prefill and decode steps of one model round otherwise, and experts that are nearly as good change places."""
    loaded = tiny(family, torch.bfloat16)
    texts = tiny_texts(loaded, (40, 34, 28, 22, 16))
    ours, theirs = read(loaded, texts), decoded(loaded, texts)
    assert (executed(ours) == executed(theirs)).all(axis=2).mean() >= 0.96
    assert np.abs(gates(ours) - gates(theirs)).max(axis=2).mean() < 4e-3


def test_a_text_has_the_routing_beside_longer_ones_that_it_has_alone() -> None:
    loaded = tiny("mixtral")
    texts = tiny_texts(loaded)
    for together, text in zip(read(loaded, texts), texts, strict=True):
        (alone,) = read(loaded, [text])
        np.testing.assert_array_equal(together.experts, alone.experts)
        np.testing.assert_allclose(together.gate.astype(np.float32), alone.gate.astype(np.float32), atol=2e-3)


def test_a_trace_holds_the_texts_own_tokens(checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    trace = continued(checkpoint, texts, tmp_path / "a.trace", "--prompt-tokens", "6", "--max-new-tokens", "10")
    assert not check(trace.path)
    for request, line in enumerate(texts.read_text().splitlines()):
        tokens = numbers(line)
        output = min(10, len(tokens) - 6)  # the last of them is never computed, as the last that is generated is not
        info, recorded = trace.infos[request], trace.read(request)
        assert (info.prompt_tokens, info.output_tokens) == (6, output)
        assert recorded.token.tolist() == tokens[: 6 + output - 1]
        assert recorded.position.tolist() == list(range(6 + output - 1))
        assert recorded.iteration.tolist() == [0] * 6 + list(range(1, output))
    assert [info.output_tokens for info in trace.infos.values()].count(10) == 5  # the sixth text ends before


def test_without_a_number_of_tokens_a_text_is_read_to_its_end(checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    trace = continued(checkpoint, texts, tmp_path / "a.trace")
    lengths = [len(numbers(line)) for line in texts.read_text().splitlines()]
    long_enough = [length for length in lengths if length > 37]
    assert [info.output_tokens for info in trace.infos.values()] == [length - 37 for length in long_enough]
    assert {info.prompt_tokens for info in trace.infos.values()} == {37}


def test_a_trace_says_that_its_tokens_are_the_texts(
    checkpoint: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = continued(checkpoint, texts, tmp_path / "text.trace", "--prompt-tokens", "6")
    said = trace.meta.generation
    assert (said["mode"], said["prompt_tokens"], said["max_new_tokens"]) == ("text", 6, None)
    assert main(["info", str(trace.path)]) == 0
    assert "decoded tokens  the texts' own; nothing was generated" in capsys.readouterr().out
    for mode, options in (("greedy", []), ("sampled", ["--temperature", "0.7"])):
        out = tmp_path / f"{mode}.trace"
        assert main(command(checkpoint, texts, out, "--limit", "1", *options)) == 0
        assert Trace.open(out).meta.generation["mode"] == mode
    assert main(["info", str(out)]) == 0
    assert "decoded tokens  sampled at temperature 0.7" in capsys.readouterr().out


def test_texts_that_are_too_short_are_left_out_and_counted(
    checkpoint: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = continued(checkpoint, texts, tmp_path / "a.trace", "--prompt-tokens", "13")
    assert len(trace) == 5
    left_out = "texts.txt: skipped 1 of 6 texts with fewer than 14 tokens (prefill 13, continuation 1)"
    assert left_out in capsys.readouterr().err
    trace = continued(checkpoint, texts, tmp_path / "b.trace", "--prompt-tokens", "13", "--output-tokens", "20")
    assert [info.output_tokens for info in trace.infos.values()] == [20] * len(trace)
    assert f"skipped {6 - len(trace)} of 6 texts with fewer than 33 tokens" in capsys.readouterr().err
    assert main(collect(checkpoint, texts, tmp_path / "c.trace", "--prompt-tokens", "99")) == 2
    reported = (
        "texts.txt: none of the 6 texts has 100 tokens (prefill 99, continuation 1); the longest, in line 2, has 61"
    )
    assert reported in capsys.readouterr().err


def test_a_text_that_the_model_cannot_read_is_reported_with_its_line() -> None:
    loaded = tiny("mixtral")
    prompts = [Prompt(text=" ".join(["w9"] * count), source="s", line=count) for count in (60, 128)]
    reported = r"^t: line 128, field prompt: 129 tokens exceed the model's context of 128; `max_new_tokens` limits"
    with pytest.raises(UserError, match=reported):
        divided_texts(prompts, loaded, Lengths(), where="t")
    assert len(divided_texts(prompts, loaded, Lengths(max_new_tokens=91), where="t")) == 2


@pytest.mark.parametrize(
    ("rotary", "prefill", "length", "refused"),
    [
        ({"rope_type": "longrope", "original_max_position_embeddings": 40}, 20, 40, False),
        ({"rope_type": "longrope", "original_max_position_embeddings": 40}, 20, 41, True),
        ({"rope_type": "longrope", "original_max_position_embeddings": 40}, 41, 60, False),
        ({"rope_type": "dynamic", "original_max_position_embeddings": 40}, 41, 60, True),
        ({"rope_type": "dynamic", "original_max_position_embeddings": 40}, 20, 40, False),
        ({"full_attention": {"rope_type": "dynamic", "original_max_position_embeddings": 40}}, 20, 41, True),
        ({"rope_type": "yarn", "original_max_position_embeddings": 40}, 20, 60, False),
        (None, 20, 60, False),
    ],
)
def test_a_rotary_embedding_that_changes_with_the_length_is_not_read_across_the_change(
    rotary: Any, prefill: int, length: int, refused: bool
) -> None:
    class Model:
        tokenizer = tiny_tokenizer()
        context = 128
        vocab_size = VOCABULARY
        max_position_embeddings = 128
        rope_parameters = rotary

        @property
        def config(self) -> Any:
            return self

    model: Any = Model()
    prompts = [Prompt(text=" ".join(["w9"] * (length - 1)), source="s", line=7)]
    if refused:
        with pytest.raises(UserError, match=r"^t: line 7, field prompt: beyond 40 tokens the model's rotary embedding"):
            divided_texts(prompts, model, Lengths(prompt_tokens=prefill), where="t")
    else:
        assert divided_texts(prompts, model, Lengths(prompt_tokens=prefill), where="t")


def test_the_limit_of_a_rotary_embedding_is_where_its_frequencies_change() -> None:
    settings = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 16}
    factors = {"short_factor": [1.0] * 6, "long_factor": [2.0 + step for step in range(6)]}
    sizes = {"hidden_size": 48, "num_attention_heads": 4, "head_dim": 12, "max_position_embeddings": 64}
    config = AutoConfig.for_model("mixtral", **sizes, rope_parameters=settings | factors)
    (limit,) = rotary_limits(config).values()
    rotary = MixtralRotaryEmbedding(config)
    first = [rotary(torch.zeros(1), torch.arange(length)[None])[0][0, 1] for length in (limit - 1, limit, limit + 1)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])


def test_with_a_chat_template_a_text_is_a_turn_that_goes_on() -> None:
    loaded = load("pocket")
    text = read_prompts(PASSAGES, PromptChoice(limit=1)).prompts
    (plain,), (turn,) = (
        divided_texts(text, loaded, Lengths(chat_template=template, max_new_tokens=20), where="t")
        for template in (False, True)
    )
    begins = loaded.tokenizer("<|user|>\n")["input_ids"]
    tokens = [*plain.tokens, *plain.continuation]
    assert [*turn.tokens, *turn.continuation] == [*begins, *tokens][: len(tokens)]
    assert len(turn.tokens) == len(plain.tokens) == 37
    with pytest.raises(FieldError, match=r"^prompt_tokens: must be above 2, the tokens of the chat template, not 2$"):
        divided_texts(text, loaded, Lengths(chat_template=True, prompt_tokens=2), where="t")


def test_a_continued_text_needs_no_number_of_new_tokens() -> None:
    whole: dict[str, Any] = {"model": PlacedModel("pocket"), "target": TraceTarget(out=Path("a.trace"))}
    texts = CollectSettings(**whole, lengths=Lengths(), generation=Generation(continue_text=True))
    assert texts.generated_tokens == 0
    with pytest.raises(UserError, match=r"^`max_new_tokens` or `output_tokens` is required$"):
        CollectSettings(**whole, lengths=Lengths(), generation=Generation())
