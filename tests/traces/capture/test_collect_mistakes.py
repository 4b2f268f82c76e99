"""User mistakes in a collection are reported in one line with exit status 2, and nothing is written."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.collect_helpers import command, write_prompts
from tests.support.tiny_models import save_tiny
from traces.__main__ import main


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    save_tiny(folder / "mixtral", "mixtral")
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts") / "words.jsonl")


def mistakes() -> dict[str, tuple[Callable[[Path, Path, Path], list[str]], str]]:
    """What a user may get wrong: a command from (checkpoints, prompts, scratch folder), and what is said about it."""

    def prompt_file(text: str) -> Callable[[Path, Path, Path], list[str]]:
        def make(checkpoints: Path, prompts: Path, scratch: Path) -> list[str]:
            (scratch / "p.jsonl").write_text(text, encoding="utf-8")
            return command(checkpoints / "mixtral", scratch / "p.jsonl", scratch / "a.trace")

        return make

    def changed(family: str, change: Callable[[Path], Any]) -> Callable[[Path, Path, Path], list[str]]:
        def make(checkpoints: Path, prompts: Path, scratch: Path) -> list[str]:
            if (checkpoints / family).exists():
                shutil.copytree(checkpoints / family, scratch / "model")
            else:
                save_tiny(scratch / "model", family)
            change(scratch / "model")
            return command(scratch / "model", prompts, scratch / "a.trace")

        return make

    def without_a_weight(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        del weights[next(name for name in weights if name.endswith("gate.weight"))]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def truncated(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:5000])

    def with_larger_tokens(folder: Path) -> None:
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary = tokenizer["model"]["vocab"]
        tokenizer["model"]["vocab"] = {word: token + 300 * (token > 3) for word, token in vocabulary.items()}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")

    def plain(*more: str, model: str = "mixtral", out: str = "a.trace") -> Callable[[Path, Path, Path], list[str]]:
        return lambda checkpoints, prompts, scratch: command(checkpoints / model, prompts, scratch / out, *more)

    long = json.dumps({"prompt": "w4 " * 130})
    return {
        "no prompt": (prompt_file("\n"), "p.jsonl: contains no prompt"),
        "not JSON": (prompt_file('{"prompt": "w4"}\n{\n'), "p.jsonl: line 2: is not JSON"),
        "no field": (prompt_file('{"text": "w4"}\n'), "p.jsonl: line 1, field prompt: is missing"),
        "too long": (prompt_file(f'{{"prompt": "w4"}}\n{long}\n'), "line 2, field prompt: 131 tokens and 5 new ones"),
        "no such model": (plain(model="none"), "none: does not exist"),
        "mistyped model": (
            lambda checkpoints, prompts, scratch: command("phi-3.5-moe-twn", prompts, scratch / "a.trace"),
            "unknown model 'phi-3.5-moe-twn'; did you mean 'phi-3.5-moe-twin'?",
        ),
        "no such revision of nothing": (
            lambda checkpoints, prompts, scratch: command("acme/none", prompts, scratch / "a.trace"),
            "model acme/none cannot be loaded",
        ),
        "no weights": (changed("mixtral", lambda folder: (folder / "model.safetensors").unlink()), "cannot be loaded"),
        "broken weights": (changed("mixtral", truncated), "cannot be loaded"),
        "missing weight": (changed("mixtral", without_a_weight), "lacks 1 weights, the first 'model.layers.0.mlp.gate"),
        "no tokenizer": (
            changed("mixtral", lambda folder: [file.unlink() for file in folder.glob("tokenizer*")]),
            "the folder has no tokenizer",
        ),
        "other tokenizer": (changed("mixtral", with_larger_tokens), "is not in the model's vocabulary"),
        "no experts": (changed("llama", lambda folder: None), "'llama' has no experts"),
        "no indices": (changed("llama4_text", lambda folder: None), "are called without the indices"),
        "lookahead too far": (
            plain("--lookahead", "1,3"),
            "--lookahead: must be from 1 to 2 for the 3 MoE layers of mixtral, not 3",
        ),
        "no chat template": (plain("--chat-template"), "--chat-template: the model's tokenizer has no chat template"),
        "fixed and too long": (
            plain("--prompt-tokens", "124"),
            "line 1, field prompt: 124 tokens and 5 new ones exceed the model's context of 128",
        ),
        "no such device": (plain("--device", "gpu7"), "device 'gpu7' cannot be used"),
        "wrong name": (plain(out="a.parquet"), "--out: must be a name that ends in .trace"),
    }


@pytest.mark.parametrize("mistake", mistakes())
def test_a_mistake_is_reported_in_one_line(
    checkpoints: Path,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    mistake: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    make, said = mistakes()[mistake]
    arguments = make(checkpoints, prompts, tmp_path)
    capsys.readouterr()
    assert main(arguments) == 2
    (reported,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in reported
    assert not list(tmp_path.glob("a.*"))


@pytest.mark.parametrize(
    "option",
    [
        ("--max-new-tokens", "0"),
        ("--batch-size", "-1"),
        ("--lookahead", "0"),
        ("--lookahead", "1,x"),
        ("--temperature", "0"),
        ("--temperature", "nan"),
        ("--greedy", "--temperature", "1"),
        ("--dtype", "int8"),
        ("--device-map", "all"),
        ("--device", "cpu", "--device-map", "auto"),
        ("--batch-tokens", "99"),  # beside --batch-size
        ("--output-tokens", "9"),  # beside --max-new-tokens
        ("--prompt-tokens", "0"),
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_refused_before_anything_is_loaded(
    tmp_path: Path, option: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("none", tmp_path / "none", tmp_path / "a.trace", *option)) == 2
    (reported,) = capsys.readouterr().err.splitlines()
    assert reported.startswith("error: ")
    assert option[-2] in reported


def test_out_of_memory_names_the_batch_and_the_way_out(
    checkpoints: Path,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def generate(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("transformers.GenerationMixin.generate", generate)
    assert main(command(checkpoints / "mixtral", prompts, tmp_path / "a.trace")) == 2
    assert "a batch of 4 prompts of up to" in capsys.readouterr().err


def test_without_torch_the_command_says_what_to_install(prompts: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from traces.__main__ import main; sys.exit(main(sys.argv[1:]))"
    arguments = command("pocket", prompts, tmp_path / "a.trace")
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: collect needs torch: pip install 'finemoe-lab[models]'\n"
