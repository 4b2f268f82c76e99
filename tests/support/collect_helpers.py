"""The collect command on tiny checkpoints, and what it leaves behind."""

import json
import os
import random
from pathlib import Path

from tests.support.tiny_models import BOS
from traces.__main__ import main
from traces.format.reader import Trace

PROMPTS = 14
NEW_TOKENS = 5
BATCH = 4


def write_prompts(path: Path) -> Path:
    """`PROMPTS` prompts of different lengths as JSON Lines; every other one names its source."""
    draw = random.Random(3)
    texts = [" ".join(f"w{draw.randint(4, 198)}" for _ in range(draw.randint(2, 20))) for _ in range(PROMPTS)]
    lines = [{"prompt": text} | ({"source": "even"} if index % 2 == 0 else {}) for index, text in enumerate(texts)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def command(model: Path | str, prompts: Path, out: Path, *more: str) -> list[str]:
    sizes = ["--max-new-tokens", str(NEW_TOKENS), "--batch-size", str(BATCH)]
    return ["collect", str(model), "--prompts", str(prompts), "--out", str(out), *sizes, *more]


def collected(model: Path | str, prompts: Path, out: Path, *more: str) -> Trace:
    assert main(command(model, prompts, out, *more)) == 0
    return Trace.open(out)


def content(trace: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in trace.iterdir()}


def texts_of(prompts: Path) -> list[str]:
    return [json.loads(line)["prompt"] for line in prompts.read_text(encoding="utf-8").splitlines()]


def numbers(text: str) -> list[int]:
    """What the tiny tokenizer makes of a text of words `w<number>`."""
    return [BOS, *(int(word[1:]) for word in text.split())]


def subprocess_environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}
