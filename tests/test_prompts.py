"""Prompt files are read as they are, and what is wrong with one is told by file, line and field."""

import hashlib
from pathlib import Path

import pytest

from policies.errors import UserError
from traces.prompts import read_prompts


def test_json_lines_have_a_prompt_and_perhaps_a_source(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text('{"prompt": "Grüß\\n Gott", "source": "de", "id": 7}\n\n{"prompt": "hello"}\n', encoding="utf-8")
    first, second = read_prompts(file)
    assert (first.text, first.source, first.line) == ("Grüß\n Gott", "de", 1)
    assert (second.text, second.source, second.line) == ("hello", "chat", 3)
    assert first.sha256 == hashlib.sha256("Grüß\n Gott".encode()).hexdigest()


def test_plain_text_has_a_prompt_per_line(tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    file.write_bytes(b'\xef\xbb\xbfWhy?\r\n   \r\n{"prompt": 1}\r\nA \xe2\x80\xa8 B')
    assert [prompt.text for prompt in read_prompts(file)] == ["Why?", '{"prompt": 1}', "A \u2028 B"]
    assert {prompt.source for prompt in read_prompts(file, source="faq")} == {"faq"}


def test_a_limit_stops_before_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a"}\n{"prompt": "b"}\noops\n', encoding="utf-8")
    assert [prompt.text for prompt in read_prompts(file, limit=2)] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "p.jsonl: holds no prompt"),
        (b"\n \n", "p.jsonl: holds no prompt"),
        (b'{"prompt": "a"}\n{"prompt": "b"\n', "p.jsonl: line 2: is not JSON"),
        (b'["a"]\n', "p.jsonl: line 1: must be a JSON object"),
        (b'{"text": "a"}\n', "p.jsonl: line 1, field prompt: is missing"),
        (b'{"prompt": 3}\n', "p.jsonl: line 1, field prompt: must be text"),
        (b'{"prompt": " "}\n', "p.jsonl: line 1, field prompt: must be text"),
        (b'{"prompt": "a", "source": 3}\n', "p.jsonl: line 1, field source: must be text"),
        (b'{"prompt": "\\ud800"}\n', "p.jsonl: line 1, field prompt: holds half a surrogate pair"),
        (b"\xff\xfe\n", "p.jsonl: is not UTF-8"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_bytes(content)
    with pytest.raises(UserError) as told:
        read_prompts(file)
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt: cannot be read: No such file"):
        read_prompts(tmp_path / "none.txt")
