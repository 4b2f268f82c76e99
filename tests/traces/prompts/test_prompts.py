"""Prompt files are read unchanged, and mistakes are reported with file, line and field."""

import hashlib
import json
import os
import tracemalloc
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import FieldError, UserError
from tests.support.trace_helpers import small_trace
from traces.__main__ import main
from traces.prompts import prompt_files
from traces.prompts.prompt import NO_TEXT, SEEN, Prompt
from traces.prompts.prompt_files import array_rows, rows_of
from traces.prompts.prompt_sets import PromptChoice, PromptSet, read_prompts, reservoir


def chosen(path: Path, *, seed: int = 0, **choice: Any) -> PromptSet:
    return read_prompts(str(path), PromptChoice(**choice), seed=seed)


def read(path: Path, **choice: Any) -> list[Prompt]:
    return chosen(path, **choice).prompts


def texts(path: Path, **choice: Any) -> list[str]:
    return [prompt.text for prompt in read(path, **choice)]


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def human(text: object) -> dict[str, object]:
    return {"from": "human", "value": text}


def test_json_lines_have_a_prompt_and_perhaps_a_source(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text('{"prompt": "Grüß\\n Gott", "source": "de", "id": 7}\n\n{"prompt": "hello"}\n', encoding="utf-8")
    first, second = read(file)
    assert (first.text, first.source, first.line) == ("Grüß\n Gott", "de", 1)
    assert (second.text, second.source, second.line) == ("hello", "chat", 3)
    assert first.sha256 == hashlib.sha256("Grüß\n Gott".encode()).hexdigest()


def test_plain_text_has_a_prompt_per_line(tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    file.write_bytes(b'\xef\xbb\xbfWhy?\r\n   \r\n{"prompt": 1}\r\nA \xe2\x80\xa8 B')
    assert texts(file) == ["Why?", '{"prompt": 1}', "A \u2028 B"]
    assert {prompt.source for prompt in read(file, source_name="faq")} == {"faq"}


def test_a_limit_stops_before_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a"}\n{"prompt": "b"}\noops\n', encoding="utf-8")
    assert texts(file, limit=2) == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "p.jsonl: contains no prompt"),
        (b"\n \n", "p.jsonl: contains no prompt"),
        (b'{"prompt": "a"}\n{"prompt": "b"\n', "p.jsonl: line 2: is not JSON"),
        (b'{"prompt": ' + b"[" * 100_000, "p.jsonl: line 1: is not JSON"),
        (b'["a"]\n', "p.jsonl: line 1: must be a JSON object"),
        (b'{"text": "a"}\n', "p.jsonl: line 1, field prompt: is missing"),
        (b'{"prompt": 3}\n', "p.jsonl: line 1, field prompt: must be non-empty text"),
        (b'{"prompt": " "}\n', "p.jsonl: line 1, field prompt: must be non-empty text"),
        (b'{"prompt": "a", "source": 3}\n', "p.jsonl: line 1, field source: must be non-empty text"),
        (b'{"prompt": "\\ud800"}\n', "p.jsonl: line 1, field prompt: contains half a surrogate pair"),
        (b"\xff\xfe\n", "p.jsonl: is not UTF-8"),
    ],
)
def test_mistakes_are_reported_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_bytes(content)
    with pytest.raises(UserError) as reported:
        read(file)
    assert said in str(reported.value)
    assert "\n" not in str(reported.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt: does not exist$"):
        read(tmp_path / "none.txt")


def test_a_trace_is_refused_although_its_tables_could_be_read(tmp_path: Path) -> None:
    trace = small_trace(tmp_path / "mine.trace")
    with pytest.raises(UserError, match=r"mine\.trace: is a trace, not a set of prompts"):
        read_prompts(str(trace))


def test_a_device_or_a_pipe_is_refused_since_it_may_never_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jsonl"  # nobody writes
    os.mkfifo(pipe)
    for path in (Path(os.devnull), pipe, Path("/dev/zero")):  # first the one that ends if it is read
        with pytest.raises(UserError, match=f"^{path}: is not a regular file$"):
            read(path)


# Fields


def test_any_field_can_hold_the_prompt(tmp_path: Path) -> None:
    file = lines(tmp_path / "p.jsonl", {"id": 1, "data": {"question": "Why?"}, "a.b": "How?", "all": ["x", "Who?"]})
    assert texts(file, prompt_field="data.question") == ["Why?"]
    assert texts(file, prompt_field="a.b") == ["How?"]
    assert texts(file, prompt_field="all.1") == ["Who?"]
    for missing in ("question", "data.answer", "all.2", "data.question.x", "all.x"):
        with pytest.raises(UserError, match=f"line 1, field {missing}: is missing; choose one of id, data, a.b, all "):
            read(file, prompt_field=missing)


def test_mt_bench_asks_its_first_turn_and_names_its_category(tmp_path: Path) -> None:
    rows = [
        {"question_id": 81, "category": "writing", "turns": ["Write a letter.", "Now make it shorter."]},
        {"question_id": 82, "category": "maths", "turns": ["Add 1 and 2.", "And 3."], "reference": ["3", "6"]},
    ]
    found = read(lines(tmp_path / "question.jsonl", *rows))
    assert [(one.text, one.source) for one in found] == [("Write a letter.", "writing"), ("Add 1 and 2.", "maths")]


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "system", "value": "Be brief."}, human("Hello?"), human("Again?")]},
        {"conversation": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]},
        {"messages": [{"role": "system", "content": "No."}, {"role": "user", "content": "Hello?"}]},
    ],
)
def test_a_conversation_asks_what_its_user_said_first(tmp_path: Path, row: object) -> None:
    assert texts(lines(tmp_path / "p.jsonl", row)) == ["Hello?"]


def test_of_conversations_the_empty_and_the_repeated_are_left_out_and_counted(tmp_path: Path) -> None:
    talks = [[], [human("a")], [{"from": "gpt", "value": "b"}], [human(" ")], [human("a")], [human(None)], [human("c")]]
    found = chosen(lines(tmp_path / "p.jsonl", *({"conversations": talk} for talk in talks)))
    assert [(one.text, one.line) for one in found.prompts] == [("a", 2), ("c", 7)]
    assert found.dropped == {SEEN: 1, NO_TEXT: 4}


def test_a_list_of_prompts_is_taken_as_it_is(tmp_path: Path) -> None:
    found = chosen(lines(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "a"}))
    assert len(found.prompts) == 2
    assert not found.dropped


def test_longer_prompts_are_left_out_before_prompts_are_counted(tmp_path: Path) -> None:
    found = chosen(
        lines(tmp_path / "p.jsonl", *({"prompt": "x" * n} for n in (3, 9, 4, 8, 5))), max_prompt_chars=4, limit=2
    )
    assert [len(one.text) for one in found.prompts] == [3, 4]
    assert found.dropped == {"longer than 4 characters": 1}
    with pytest.raises(UserError, match=r"contains no prompt that can be used \(skipped: 5 longer than 2 characters\)"):
        chosen(tmp_path / "p.jsonl", max_prompt_chars=2)


# JSON arrays


@pytest.mark.parametrize("chunk", [3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_as_json_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(prompt_files, "_CHUNK", chunk)
    rows = [{"prompt": f'é "quoted" ] [{{ {n}\n\u2028', "n": [n, {"x": None}]} for n in range(9)]
    file = tmp_path / "p.json"
    file.write_text(" \n" + json.dumps(rows, indent=indent, ensure_ascii=chunk == 7), encoding="utf-8")
    assert [(row.number, row.data) for row in rows_of(file)] == list(enumerate(rows, start=1))


def test_a_json_file_may_also_have_an_object_per_line(tmp_path: Path) -> None:
    assert texts(lines(tmp_path / "p.json", {"prompt": "a"}, {"prompt": "b"})) == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "p.json: contains no prompt"),
        ('[{"prompt": "a"}, 7]', "p.json: item 2: must be a JSON object"),
        ('[{"prompt": "a"}, {"prompt": ', "p.json: item 2: is not JSON, or the file ends within it"),
        ('[{"prompt": "a"}', "p.json: item 2: is not JSON, or the file ends within it"),
        ('[{"prompt": "a"}, {"prompt": 1}]', "p.json: item 2, field prompt: must be non-empty text"),
    ],
)
def test_mistakes_in_an_array_are_reported_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(UserError, match=said):
        read(tmp_path / "p.json")


def test_a_long_array_does_not_fill_the_memory() -> None:
    item = json.dumps({"conversations": [human("x" * 10_000)]})
    pieces = (piece for _ in range(4_000) for piece in (item, ", "))  # 40 MB
    tracemalloc.start()
    count = sum(
        1 for _, _ in zip(range(3_900), array_rows((p for one in (["["], pieces) for p in one), "x"), strict=False)
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 3_900
    assert peak < 10e6


# Samples


def test_every_subset_is_drawn_equally_often() -> None:
    rng = np.random.default_rng(1)
    items = [Prompt(text=str(number), source="", line=number) for number in range(5)]
    draws = 20_000
    counts = Counter(tuple(one.line for one in reservoir(items, 2, rng)[0]) for _ in range(draws))
    assert set(counts) == set(combinations(range(5), 2))  # in their order
    expected = draws / len(counts)
    # Chi-square with 9 degrees of freedom exceeds 27.9 once in a thousand times.
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 27.9


def test_a_sample_depends_on_the_seed_alone_and_says_what_it_is_of(tmp_path: Path) -> None:
    file = lines(tmp_path / "p.jsonl", *({"prompt": str(n)} for n in range(100)))
    found = chosen(file, sample=10, limit=50, seed=3)
    assert found == chosen(file, sample=10, limit=50, seed=3)
    assert texts(file, sample=10, limit=50, seed=4) != [one.text for one in found.prompts]
    numbers = [one.line for one in found.prompts]
    assert numbers == sorted(set(numbers))
    assert max(numbers) <= 50
    assert found.name == "p.jsonl, 10 of the first 50, seed 3"
    assert texts(file, sample=100) == texts(file)
    with pytest.raises(UserError, match=r"^sample: must be at most 100, the number of prompts in .*p\.jsonl, not 101$"):
        chosen(file, sample=101)


# Names


def test_an_unknown_name_offers_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="unknown prompt set 'built-on'; did you mean 'built-in'"):
        read(Path("built-on"))
    known = "built-in, built-in-passages, lmsys-chat-1m, sharegpt"
    with pytest.raises(UserError, match=f"unknown prompt set 'lmsys'; known: {known}"):
        read(Path("lmsys"))
    assert main(["collect", "pocket", "--prompts", "lmsys", "--max-new-tokens", "1", "--out", "a.trace"]) == 2
    assert capsys.readouterr().err == f"error: unknown prompt set 'lmsys'; known: {known}\n"


def test_a_large_set_is_not_taken_whole_by_mistake() -> None:
    with pytest.raises(
        UserError, match="lmsys-chat-1m: this set is large; choose the number of prompts with `limit` or `sample`"
    ):
        read(Path("lmsys-chat-1m"))


@pytest.mark.parametrize("option", ["--limit", "--sample", "--max-prompt-chars"])
def test_no_prompts_cannot_be_asked_for(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "built-in", option, "0"]) == 2
    assert capsys.readouterr().err == f"error: {option}: must be at least 1, not 0\n"


def test_a_seed_is_not_negative(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FieldError, match=r"^seed: must be at least 0, not -1$"):
        read_prompts("built-in", seed=-1)
    assert main(["prompts", "built-in", "--sample", "2", "--seed", "-1"]) == 2
    assert capsys.readouterr().err == "error: --seed: must be at least 0, not -1\n"


def test_the_command_names_options_where_the_library_names_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(lines(tmp_path / "p.jsonl", {"text": "a"}))
    assert main(["prompts", file]) == 2
    assert capsys.readouterr().err == (
        f"error: {file}: line 1, field prompt: is missing; choose one of text with --prompt-field\n"
    )
    assert main(["prompts", file, "--prompt-field", "text", "--sample", "2"]) == 2
    assert capsys.readouterr().err == f"error: --sample: must be at most 1, the number of prompts in {file}, not 2\n"
    assert main(["prompts", "sharegpt"]) == 2
    reported = "error: sharegpt: this set is large; choose the number of prompts with --limit or --sample\n"
    assert capsys.readouterr().err == reported


def test_the_command_lists_the_sets_and_describes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("built-in", "lmsys/lmsys-chat-1m", "ShareGPT"))
    rows = [{"prompt": "one two", "source": "b"}, {"prompt": "x", "source": "a"}, {"prompt": "one two three"}]
    assert main(["prompts", str(lines(tmp_path / "p.jsonl", *rows)), "--source-name", "a", "--json"]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert (reported["name"], reported["prompts"], reported["sources"]) == ("p.jsonl", 3, {"a": 2, "b": 1})
    assert reported["words"] == {"mean": 2.0, "p5": 1, "p50": 2, "p95": 3, "max": 3}
    assert [one["prompt"] for one in reported["examples"]] == ["one two", "x", "one two three"]


def test_a_set_is_described_by_its_lengths_and_three_examples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"{'w ' * words}w", "source": "a" if words < 300 else "b"} for words in (0, 1, 2, 400)]
    assert main(["prompts", str(lines(tmp_path / "p.jsonl", *rows))]) == 0
    head, lengths, first, middle, last = capsys.readouterr().out.split("\n\n")
    assert [line.split(maxsplit=1)[1] for line in head.splitlines()[1:]] == ["4", "a (3), b (1)"]
    words = next(line for line in lengths.splitlines() if "words" in line)
    assert words.split()[1:] == ["101.8", "1", "3", "401", "401"]  # of 1, 2, 3 and 401
    assert (first, middle) == ("[a]\nw", "[a]\nw w w")
    assert last.startswith("[b]\nw w w")
    assert last.endswith(" … (801 characters)\n")
