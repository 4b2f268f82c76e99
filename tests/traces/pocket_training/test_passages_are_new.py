"""The built-in passages are in no training text of the models that ship with the project."""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from traces.pocket.recipe import RECIPES
from traces.pocket_training.corpus import DOMAINS, read
from traces.pocket_training.sources import source
from traces.prompts.prompt_sets import PASSAGES, read_prompts

RUN = 8  # successive words that no two independent texts share

CACHE = Path(os.environ.get("FINEMOE_POCKET_CACHE", "pocket-cache"))


def runs(text: str) -> set[tuple[str, ...]]:
    """Every `RUN` successive words, at least half of which have a letter: rows of digits are alike by chance."""
    words = re.findall(r"\w+", text.lower())
    every = zip(*(words[start:] for start in range(RUN)), strict=False)
    return {run for run in every if 2 * sum(not word.isdigit() for word in run) >= RUN}


@cache
def of_passages() -> frozenset[tuple[str, ...]]:
    return frozenset().union(*(runs(passage.text) for passage in read_prompts(PASSAGES).prompts))


def shared_with(texts: Iterable[str]) -> set[tuple[str, ...]]:
    return {run for text in texts for run in runs(text) & of_passages()}


def test_a_corpus_is_made_of_archives_that_others_published_and_of_nothing_that_ships_here() -> None:
    """All training text comes out of archives with a stated hash, and no module that takes it out reads prompts."""
    for recipe in RECIPES.values():
        for domain, _ in recipe.corpus.characters:
            assert re.fullmatch("[0-9a-f]{64}", source(DOMAINS[domain].package).sha256)
    code = "import sys, traces.pocket_training.corpus; print(*(n for n in sys.modules if n.startswith('traces.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "traces.pocket_training.extract" in loaded
    assert not [name for name in loaded if name.startswith("traces.prompts")]


@pytest.mark.parametrize("every", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_no_passage_is_in_the_standard_library(every: int) -> None:
    """The library of this interpreter, whatever its version: the models were trained on that of Python 3.11."""
    library = Path(sysconfig.get_path("stdlib"))
    modules = sorted([*library.glob("*.py"), *library.glob("[a-z]*/*.py")])
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in modules if "site-packages" not in str(path)]
    assert len(texts) > 300
    assert shared_with(texts[::every]) == set()


@pytest.mark.skipif(
    not (CACHE / "corpus.jsonl").is_file(),
    reason="needs a corpus: python -m traces.pocket_training corpus --fetch --cache pocket-cache",
)
def test_no_passage_is_in_the_corpus() -> None:
    assert shared_with(piece.text for piece in read(CACHE).pieces) == set()


def test_a_passage_in_a_corpus_would_be_found() -> None:
    passage = read_prompts(PASSAGES).prompts[3].text
    assert shared_with(["Something else.", f"Before. {passage[100:300]} After."])
