"""Options of a collection for large models: token budgets, device maps, fixed lengths, and logs."""

import io
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

from common.errors import FieldError, UserError
from tests.support.collect_helpers import NEW_TOKENS, PROMPTS, collected, content, numbers, texts_of, write_prompts
from tests.support.slow_cases import slow_but
from tests.support.tiny_models import BOS, EOS, save_tiny, tiny_tokenizer
from traces.__main__ import main
from traces.capture.capture_settings import Generation
from traces.capture.collection import cut_into_batches
from traces.capture.generation import TokenizedPrompt
from traces.capture.model_loading import load
from traces.capture.token_progress import token_bar
from traces.format.reader import Trace
from traces.format.writer import TraceWriter
from traces.prompts.prompt import Prompt

AHEAD = ("--lookahead", "1")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    save_tiny(folder / "mixtral", "mixtral")
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts") / "words.jsonl")


@pytest.fixture(scope="module")
def ordinary(checkpoints: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """A collection without any option for large models."""
    return collected(checkpoints / "mixtral", prompts, tmp_path_factory.mktemp("ordinary") / "a.trace", *AHEAD)


def collect(model: Path | str, prompts: Path, out: Path, *options: str) -> int:
    return main(["collect", str(model), "--prompts", str(prompts), "--out", str(out), *options])


def batches_of(lengths: list[int], **options: Any) -> list[list[int]]:
    requests = [
        TokenizedPrompt(number, Prompt(text="", source="", line=number + 1), [4] * length)
        for number, length in enumerate(lengths)
    ]
    batches = cut_into_batches(requests, NEW_TOKENS, Generation(**options), where="p.jsonl")
    return [[one.request for one in batch] for batch in batches]


def test_batches_fill_a_budget_of_tokens_from_the_longest_prompt_down() -> None:
    lengths = [3, 15, 7, 7, 1, 15, 2]
    # Places are B × (longest + 5 new): 2 × 20, 3 × 12, then 2 × 7, the last two, of 1 token and of 2.
    assert batches_of(lengths, batch_tokens=40) == [[1, 5], [2, 3, 0], [6, 4]]
    assert batches_of(lengths, batch_tokens=39) == [[1], [5], [2, 3, 0], [6, 4]]
    assert batches_of(lengths, batch_tokens=1000) == [[1, 5, 2, 3, 0, 6, 4]]


def test_no_batch_exceeds_the_budget_and_none_could_take_its_neighbours_first() -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 60, (200,), generator=generator).tolist()
    batches = batches_of(lengths, batch_tokens=300)
    assert sorted(number for batch in batches for number in batch) == list(range(200))
    for batch, after in zip(batches, [*batches[1:], []], strict=True):
        width = max(lengths[number] for number in batch) + NEW_TOKENS
        assert len(batch) * width <= 300
        assert not after or (len(batch) + 1) * width > 300


def test_a_request_beyond_the_budget_is_named() -> None:
    with pytest.raises(
        FieldError, match=r"^batch_tokens: must be at least 20, the prompt and new tokens of p\.jsonl, line 2, not 19$"
    ):
        batches_of([3, 15, 7], batch_tokens=19)


def test_a_budget_of_tokens_changes_batches_and_not_what_is_recorded(
    checkpoints: Path, prompts: Path, ordinary: Trace, tmp_path: Path
) -> None:
    options = ("--max-new-tokens", str(NEW_TOKENS))
    assert collect(checkpoints / "mixtral", prompts, tmp_path / "a.trace", *options, "--batch-tokens", "60") == 0
    trace = Trace.open(tmp_path / "a.trace")
    assert (trace.meta.generation["batch_tokens"], trace.meta.generation["batch_size"]) == (60, None)
    assert "batch_tokens" not in ordinary.meta.generation
    for request in range(PROMPTS):
        assert trace.read(request).token.tolist() == ordinary.read(request).token.tolist()


def test_input_and_output_have_the_lengths_asked_for(checkpoints: Path, prompts: Path, tmp_path: Path) -> None:
    sampled = ("--limit", "8", "--temperature", "3")  # hot: all tokens are likely
    lengths, texts = ("--prompt-tokens", "11", "--output-tokens", "23"), texts_of(prompts)[:8]
    assert collect(checkpoints / "mixtral", prompts, tmp_path / "a.trace", *sampled, *lengths) == 0
    trace = Trace.open(tmp_path / "a.trace")
    said = trace.meta.generation
    assert (said["prompt_tokens"], said["output_tokens"], said["max_new_tokens"]) == (11, 23, 23)
    assert "continued" in said["prompt_tokens_rule"]
    everything = [token for text in texts for token in numbers(text)[1:]]
    for request, info in trace.infos.items():
        assert (info.prompt_tokens, info.output_tokens) == (11, 23)
        one = trace.read(request)
        assert EOS not in one.token
        start = sum(len(numbers(text)) - 1 for text in texts[:request])
        assert one.token[:11].tolist() == [BOS, *(everything * 2)[start : start + 10]]
    free = collect(checkpoints / "mixtral", prompts, tmp_path / "b.trace", *sampled, "--max-new-tokens", "23")
    assert free == 0  # without the option some of these end early, or the test above proves nothing
    assert min(info.output_tokens for info in Trace.open(tmp_path / "b.trace").infos.values()) < 23


def test_a_chat_template_is_recorded(checkpoints: Path, prompts: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints / "mixtral", tmp_path / "chat")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "<s> w10 {{ messages[0]['content'] }} w11"
    tokenizer.save_pretrained(tmp_path / "chat")
    trace = collected(tmp_path / "chat", prompts, tmp_path / "a.trace", "--chat-template", "--limit", "6")
    assert trace.meta.generation["chat_template"] is True
    for request, text in enumerate(texts_of(prompts)[:6]):
        wanted = [BOS, 10, *numbers(text)[1:], 11]
        assert trace.read(request).token[: len(wanted)].tolist() == wanted
        assert trace.infos[request].prompt_tokens == len(wanted)
    plain = collected(tmp_path / "chat", prompts, tmp_path / "b.trace", "--limit", "1")
    assert plain.meta.generation["chat_template"] is False


@pytest.mark.parametrize("device_map", slow_but(["auto", "balanced", "sequential"], "auto"))
def test_a_device_map_on_a_machine_without_gpus_is_the_cpu(
    checkpoints: Path, prompts: Path, ordinary: Trace, tmp_path: Path, device_map: str
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    out, options = tmp_path / "mapped.trace", (*AHEAD, "--device-map", device_map)
    mapped = collected(checkpoints / "mixtral", prompts, out, *options)
    assert content(mapped.path) == content(ordinary.path)


def test_a_model_with_a_map_says_all_devices_that_compute(checkpoints: Path) -> None:
    loaded = load(str(checkpoints / "mixtral"))
    assert loaded.devices == (torch.device("cpu"),)
    loaded.model.hf_device_map = {"a": "cuda:0", "b": "cuda:1", "c": "cpu", "d": "disk"}
    assert set(loaded.devices) == {torch.device("cpu"), torch.device("cuda:0"), torch.device("cuda:1")}


def test_a_model_that_does_not_fit_says_so_in_one_line(checkpoints: Path) -> None:
    with pytest.raises(UserError, match="does not fit into the memory of all devices and of the host"):
        load(str(checkpoints / "mixtral"), device_map={"": "disk"})


def with_own_code(model: Path, folder: Path, ran: Path, model_type: str) -> Path:
    """A checkpoint whose repository brings code for the model, which leaves a file where it has run."""
    shutil.copytree(model, folder)
    config = (folder / "config.json").read_text(encoding="utf-8")
    own = f'"auto_map": {{"AutoModelForCausalLM": "own.OwnModel"}}, "model_type": "{model_type}"'
    (folder / "config.json").write_text(config.replace('"model_type": "mixtral"', own), encoding="utf-8")
    (folder / "own.py").write_text(
        "from pathlib import Path\n"
        "from transformers import MixtralForCausalLM\n"
        f"Path({str(ran)!r}).touch()\n"
        "class OwnModel(MixtralForCausalLM):\n    pass\n",
        encoding="utf-8",
    )
    return folder


@pytest.mark.parametrize("asked", [False, True])
def test_code_of_a_repository_is_run_only_when_asked_for(
    checkpoints: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    model = with_own_code(checkpoints / "mixtral", tmp_path / "own", tmp_path / "ran", "mixtral")
    trace = collected(model, prompts, tmp_path / "a.trace", "--limit", "1", *["--trust-remote-code"] * asked)
    assert (tmp_path / "ran").exists() == asked
    assert trace.meta.generation.get("trust_remote_code", False) == asked


def test_a_model_that_only_its_own_code_knows_is_refused_unasked(
    checkpoints: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = with_own_code(checkpoints / "mixtral", tmp_path / "own", tmp_path / "ran", "unheard_of")
    assert collect(model, prompts, tmp_path / "a.trace", "--max-new-tokens", "3") == 2
    (reported,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "unheard_of" in reported
    assert not (tmp_path / "ran").exists()


SHOWN = partial(tqdm, disable=False)  # whatever TQDM_DISABLE says


class Passing(torch.nn.Module):
    """A model whose passes do nothing."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return input_ids


def test_a_log_has_a_line_per_state_with_rate_time_left_and_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    monkeypatch.setattr("traces.capture.token_progress.LOG_PACE_S", 0.0)
    monkeypatch.setattr("traces.capture.token_progress.tqdm", SHOWN)
    model = Passing()
    with token_bar(model, 40, batches=(3, 5)) as finished:
        for _ in range(2):
            for _ in range(5):
                model(input_ids=torch.zeros(4, 1))
            finished(20, 17)  # three tokens fewer than planned: a request had ended early
    text = log.getvalue()
    assert "\r" not in text
    lines = text.splitlines()
    assert lines[0].startswith("collect: 0 of 40 tokens")
    assert lines[0].endswith("batch 3 of 5")
    assert re.fullmatch(
        r"collect: 34 of 34 tokens, .*tok/s, 00:00 left, batch 5 of 5; 6 tokens fewer, as texts ended early", lines[-1]
    )
    assert any(re.search(r"8 of 40 tokens, .*tok/s, \d\d:\d\d left", line) for line in lines)


def test_after_a_resumption_progress_counts_what_is_left(
    checkpoints: Path,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:

    original = TraceWriter.write_part

    def write_part(self: TraceWriter, number: int, *rest: Any) -> None:
        if len(self.finished) == 1:
            raise KeyboardInterrupt
        original(self, number, *rest)

    options = ("--max-new-tokens", "5", "--batch-size", "4")
    monkeypatch.setattr(TraceWriter, "write_part", write_part)
    assert collect(checkpoints / "mixtral", prompts, tmp_path / "a.trace", *options) == 130
    monkeypatch.undo()
    monkeypatch.setattr("traces.capture.token_progress.tqdm", SHOWN)
    capsys.readouterr()
    assert collect(checkpoints / "mixtral", prompts, tmp_path / "a.trace", *options) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("collect: ")]
    assert lines[0].startswith(f"collect: 0 of {(PROMPTS - 4) * 5} tokens")
    assert lines[0].endswith("batch 1 of 4")
    assert lines[-1].endswith("00:00 left, batch 4 of 4")
