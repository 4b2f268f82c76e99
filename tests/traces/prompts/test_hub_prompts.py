"""Hub data sets are read by the real libraries: from folders in their layout, and from a local hub."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("datasets")

from common.errors import UserError
from tests.support.hub_stub import COMMIT, TOKEN, Hub, serving
from traces.prompts.hub_prompts import rows_of_array
from traces.prompts.prompt_sets import HUB_SETS, PromptChoice, read_prompts

LMSYS, SHAREGPT = HUB_SETS["lmsys-chat-1m"], HUB_SETS["sharegpt"]
ROWS = 40
CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
A copy for tests.
"""


def asked(number: int) -> str:
    """What the user of a conversation says; every fifth says what another has said."""
    return f"Frage {number % 5 and number}: wie groß?\u2028Genau?"


def lmsys_row(number: int) -> dict[str, Any]:
    """In the columns of the data set's card."""
    talk = [{"content": asked(number), "role": "user"}, {"content": f"Antwort {number}", "role": "assistant"}]
    flags = {"categories": {"hate": False}, "category_scores": {"hate": 0.1}, "flagged": False}
    return {
        "conversation_id": f"{number:032x}",
        "model": "vicuna-13b",
        "conversation": talk,
        "turn": 1,
        "language": "German",
        "openai_moderation": [flags, flags],
        "redacted": False,
    }


def sharegpt_item(number: int) -> dict[str, Any]:
    talk = [{"from": "human", "value": asked(number)}, {"from": "gpt", "value": "Zeile\nund Zeile\r\n"}]
    return {"id": f"abc_{number}", "conversations": talk if number % 8 else talk[1:]}


@pytest.fixture(scope="module")
def lmsys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of lmsys/lmsys-chat-1m, in two files."""
    folder = tmp_path_factory.mktemp("lmsys")
    (folder / "data").mkdir()
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    for part in (0, 1):
        rows = [lmsys_row(number) for number in range(part * ROWS // 2, (part + 1) * ROWS // 2)]
        pq.write_table(
            pa.Table.from_pylist(rows), folder / "data" / f"train-0000{part}-of-00002-0123456789abcdef.parquet"
        )
    return folder


@pytest.fixture(scope="module")
def sharegpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharegpt")
    assert SHAREGPT.file is not None
    items = [sharegpt_item(number) for number in range(ROWS)]
    (folder / SHAREGPT.file).write_text(json.dumps(items, indent=2, ensure_ascii=False), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def hub(lmsys: Path, sharegpt: Path) -> Iterator[Hub]:
    with serving({LMSYS.repository: lmsys, SHAREGPT.repository: sharegpt}, gated=(LMSYS.repository,)) as server:
        yield server


@dataclass(frozen=True)
class Answer:
    """What a command has printed."""

    returncode: int
    stdout: str
    stderr: str


CUT_OFF = "no network"  # instead of a token
ONE_BY_ONE = f"""
import contextlib, io, json, os, socket, sys
from traces.__main__ import main

connect = socket.socket.connect

def unreachable(*_):
    raise OSError(101, "Network is unreachable")

answers = []
for token, words in json.loads(sys.argv[1]):
    os.environ.pop("HF_TOKEN", None)
    socket.socket.connect = unreachable if token == {CUT_OFF!r} else connect
    if token and token != {CUT_OFF!r}:
        os.environ["HF_TOKEN"] = token
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(["prompts", *words])
    answers.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(answers))
"""


def ours(url: str, cache: Path, *commands: tuple[str | None, list[str]]) -> list[Answer]:
    """`finemoe traces prompts`, each time with a token, with none or without a network, in one process.

    It has another hub than the public one, which must be known before the libraries are.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    line = [sys.executable, "-c", ONE_BY_ONE, json.dumps(commands)]
    environment = clean | {"HF_ENDPOINT": url, "HF_HOME": str(cache)}
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return [Answer(*each) for each in json.loads(done.stdout)]


# Copies in folders and files


def test_a_folder_with_a_copy_is_read_in_the_order_of_its_files(lmsys: Path) -> None:
    found = read_prompts(str(lmsys))
    kept = [number for number in range(ROWS) if number % 5 or not number]
    assert [(one.text, one.line) for one in found.prompts] == [(asked(number), number + 1) for number in kept]
    assert {one.source for one in found.prompts} == {lmsys.name}
    assert found.dropped == {"duplicates": ROWS - len(kept)}


def test_other_columns_can_be_taken(lmsys: Path) -> None:
    found = read_prompts(str(lmsys), PromptChoice(prompt_field="conversation.1.content", limit=2))
    assert [one.text for one in found.prompts] == ["Antwort 0", "Antwort 1"]


def test_a_downloaded_array_gives_what_the_streamed_one_gives(sharegpt: Path) -> None:
    assert SHAREGPT.file is not None
    file = sharegpt / SHAREGPT.file
    streamed = [row.data for row in rows_of_array("sharegpt", str(file))]
    assert streamed == json.loads(file.read_text(encoding="utf-8"))
    found = read_prompts(str(file))
    kept = [number for number in range(ROWS) if number % 8 and number % 5]
    assert [one.text for one in found.prompts if one.text != asked(0)] == [asked(number) for number in kept]
    assert found.dropped["without user text"] == ROWS // 8


def test_a_folder_that_is_no_data_set_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as a data set: ") as reported:
        read_prompts(str(tmp_path))
    assert str(tmp_path) in str(reported.value)
    assert "\n" not in str(reported.value)


# A hub


@pytest.fixture(scope="module")
def answers(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    commands = {
        "no network": (CUT_OFF, ["sharegpt", "--limit", "3"]),  # first, as no connection may be left open
        "denied": (None, ["lmsys-chat-1m", "--limit", "3"]),
        "unknown revision": (None, ["sharegpt@v7", "--limit", "3"]),
        "streamed": (TOKEN, ["lmsys-chat-1m", "--limit", "3", "--json"]),
    }
    return dict(zip(commands, ours(hub.url, tmp_path_factory.mktemp("hub"), *commands.values()), strict=True))


def test_a_set_of_the_hub_is_streamed_and_its_commit_reported(hub: Hub, answers: dict[str, Answer]) -> None:
    done = answers["streamed"]
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    assert reported["name"] == f"lmsys-chat-1m (lmsys/lmsys-chat-1m@{COMMIT})"
    assert reported["examples"] == [{"source": "lmsys-chat-1m", "prompt": asked(number)} for number in range(3)]
    files = {name.split("-of-")[0] for name in hub.read if name.startswith("train-")}
    assert files == {"train-00000"}  # the second file is not needed


@pytest.mark.slow
def test_sharegpt_is_streamed_out_of_its_one_file(hub: Hub, tmp_path: Path) -> None:
    (done,) = ours(hub.url, tmp_path, (None, [f"sharegpt@{COMMIT}", "--sample", "3", "--json"]))
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    assert reported["name"] == f"sharegpt ({SHAREGPT.repository}@{COMMIT}), 3 of the first 29, seed 0"
    assert reported["prompts"] == 3
    assert done.stderr.startswith("sharegpt@5eb1f4")
    assert done.stderr.endswith(": skipped 6 duplicates, 5 without user text\n")


def test_denied_access_to_a_gated_set_says_what_to_do(answers: dict[str, Answer]) -> None:
    done = answers["denied"]
    assert done.returncode == 2
    assert done.stderr == (
        "error: lmsys-chat-1m: access is denied; accept the terms at https://huggingface.co/datasets/lmsys/lmsys-chat-1m"
        " with your account, then log in here with `hf auth login` or set HF_TOKEN\n"
    )


def test_an_unknown_revision_is_named(answers: dict[str, Answer]) -> None:
    done = answers["unknown revision"]
    assert done.returncode == 2
    assert (
        done.stderr == f"error: sharegpt: https://huggingface.co/datasets/{SHAREGPT.repository} has no revision 'v7'\n"
    )


def test_without_a_network_one_line_says_so(answers: dict[str, Answer]) -> None:
    done = answers["no network"]
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: sharegpt: https://huggingface.co/datasets/{SHAREGPT.repository} cannot be read:"
    )
    assert "use a file, or a folder with a downloaded copy" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_the_library_one_line_says_how_to_install_it() -> None:
    code = "import sys; sys.modules['datasets'] = None; from traces.__main__ import main; "
    code += "sys.exit(main(['prompts', 'sharegpt', '--limit', '3']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: sharegpt needs datasets: pip install 'finemoe-lab[models]'\n")
