"""The code in the documentation runs: block after block of a document, in a folder like that of `make demo`.

Commands run in this process, on less data than the documentation names: `ALWAYS`, `WHERE_GIVEN`, `SMALLER_TEXT` and
`FEWER` are all that is changed. `tests/support/documents.py` describes the labels of blocks that are not simply run,
and `not_run.txt` lists those that cannot.
"""

import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.documents import WITH_CODE, Block, blocks, name_of
from tests.support.slow_cases import slow_but

NOT_RUN = Path(__file__).with_name("not_run.txt")
LANGUAGES = {"", "sh", "python", "toml", "text", "json"}
PROGRAMS = ("sim", "traces", "validate")

ALWAYS = {  # options that a command gets, in place of its own of the same name
    "traces collect": "--limit 10 --max-new-tokens 4",
    "validate calibrate": "--max-tokens 64",
    "validate replay": "--limit 3 --max-new-tokens 4",
    "sim whatif": "--requests 1",
}
WHERE_GIVEN = {  # the values of options in place of those that a command has
    "traces collect": "--sample 8",
    "traces synthetic": "--requests 10",
    "traces prompts": "--sample 8",
}
SMALLER_TEXT = {  # of blocks as a whole
    'trace = "demo-out/pocket.trace"': 'trace = "demo-out/pocket.trace"\nrequests = 1',
    "requests = 8": "requests = 1",
    "requests=8": "requests=1",
    "seed = [0, 1, 2]": "seed = [0]",
    '"seed": [0, 1, 2]': '"seed": [0]',
}
FEWER = {  # counts in the code
    "validate.calibration.machine_profile._REPEATS": 1,
    "validate.calibration.machine_profile._NEW_TOKENS": 4,
    "validate.calibration.side_by_side._WINDOWS": 1,
    "sim.sweeps.workers.Workers.processes": lambda *_: 1,  # none but this one
}

# What `make demo` leaves, and recordings that the documents call by these names: each made when a document needs it.
DEMO = {
    "demo-out/pocket.trace": "traces collect pocket --continue-text --chat-template --threads 1 --lookahead 1 --out",
    "demo-out/results": "sim run demo-out/pocket.trace --sizes mixtral-8x7b --cache-share 0.25 --policy finemoe "
    "--policy lru --policy belady --out",
    "demo-out/policies.png": "sim plot demo-out/results --out",
    "demo-out/stalls.png": "sim plot demo-out/results --stalls --out",
    "demo-out/machine.toml": "validate calibrate pocket --threads 1 --out",
    "demo-out/replayed.trace": "validate replay pocket --threads 1 --policy lru --cache-experts 16 --detail events "
    "--out demo-out/measured --record",
    "demo-out/measured": "",  # comes with the trace before it
    "demo-out/simulated": "sim run demo-out/replayed.trace --machine demo-out/machine.toml --policy lru "
    "--cache-experts 16 --detail events --out",
    "demo-out/timelines.png": "validate compare demo-out/simulated demo-out/measured --plot",
    "gpt-oss.trace": "traces synthetic --model gpt-oss-20b --layers 6 --requests 10 --prompt-tokens 4 "
    "--output-tokens 4 --no-prefill --no-embeddings --out",
}

QUICK = ("write-a-policy.md",)  # commands, Python, and files that blocks make
documents = [each for each in WITH_CODE if blocks(each)]
each_document = pytest.mark.parametrize("document", documents, ids=name_of)


def smaller(program: str, command: str, words: list[str]) -> list[str]:
    """The words of a command with the options of the two tables."""
    name = f"{program} {command}"
    for table, added in ((ALWAYS, True), (WHERE_GIVEN, False)):
        changes = table.get(name, "").split()
        for option, value in zip(changes[::2], changes[1::2], strict=True):
            if option in words:
                words[words.index(option) + 1] = value
            elif added:
                words += [option, value]
    return words


def run(words: list[str]) -> int:
    """The exit status of `finemoe PROGRAM COMMAND …` or `python -m PROGRAM COMMAND …`."""
    first = words[:3] if words[0] == "python" else words[:2]
    if first[:-1] not in (["finemoe"], ["python", "-m"]) or first[-1] not in PROGRAMS:
        raise ValueError(f"cannot run {' '.join(words)!r} here: label the block with <!-- not run: REASON -->")
    program, words = first[-1], words[len(first) :]
    status: int = import_module(f"{program}.__main__").main(smaller(program, words[0], words))
    return status


def run_shell(block: Block, text: str) -> None:
    lines = [line for line in text.replace("\\\n", " ").splitlines() if shlex.split(line, comments=True)]
    for number, line in enumerate(lines):
        words = shlex.split(line, comments=True)
        expected = int(block.value) if block.label == "exit status" and number == len(lines) - 1 else 0
        if ">" in words[:-1]:
            *words, _, file = words
            with Path(file).open("w") as opened, redirect_stdout(opened):
                status = run(words)
        else:
            status = run(words)
        assert status == expected, f"{block.place}: {line}"


def run_block(block: Block, names: dict[str, object]) -> None:
    text = block.text
    for theirs, ours in SMALLER_TEXT.items():
        text = text.replace(theirs, ours)
    if block.label == "file":
        Path(block.value).write_text(text)
    if block.language == "sh":
        run_shell(block, text)
    elif block.language == "python":
        exec(compile(text, block.place, "exec"), names)
    elif block.language == "toml":
        tomllib.loads(text)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder that holds at least those of `DEMO` that a text names."""
    folder = tmp_path_factory.mktemp("demo")

    def with_all_in(text: str) -> Path:
        for path, command in DEMO.items():
            if path in text and not (folder / path).exists():
                with_all_in(command)
                with pytest.MonkeyPatch.context() as patch:
                    patch.chdir(folder)
                    Path(path).parent.mkdir(exist_ok=True)
                    assert run(["finemoe", *shlex.split(command), path]) == 0
        return folder

    return with_all_in


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder, whose modules can be imported and are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("FINEMOE_STORE", raising=False)
    for name, value in FEWER.items():
        monkeypatch.setattr(name, value)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize(
    "document", slow_but(documents, *(each for each in documents if each.name in QUICK)), ids=name_of
)
def test_the_blocks_of_a_document_run_one_after_the_other(
    document: Path, workplace: Path, demo: Callable[[str], Path]
) -> None:
    todo = [each for each in blocks(document) if each.label != "not run"]
    shutil.copytree(demo("\n".join(each.text for each in todo)), workplace, dirs_exist_ok=True)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in todo:
        run_block(block, names)


def test_exactly_the_listed_blocks_are_not_run() -> None:
    """Whoever labels a block, or takes a label away, changes the list, so that a reviewer sees it."""
    labelled = [
        f"{name_of(each)} | {block.text.splitlines()[0].strip()} | {block.value}"
        for each in documents
        for block in blocks(each)
        if block.label == "not run"
    ]
    wanted = "\n".join(["document | first line of the block | why it is not run", *labelled, ""])
    assert NOT_RUN.read_text().splitlines() == wanted.splitlines(), f"{NOT_RUN.name} should be\n{wanted}"


@each_document
def test_a_block_says_its_language_or_is_output(document: Path) -> None:
    assert [f"{each.place}: {each.language}" for each in blocks(document) if each.language not in LANGUAGES] == []


def test_options_are_made_smaller_and_nothing_else_is_changed() -> None:
    words = ["pocket", "--limit", "96", "--out", "a"]
    assert smaller("traces", "collect", words) == ["pocket", "--limit", "10", "--out", "a", "--max-new-tokens", "4"]
    assert smaller("traces", "synthetic", ["--requests", "200"]) == ["--requests", "10"]
    assert smaller("traces", "synthetic", ["--seed", "1"]) == ["--seed", "1"]
    assert smaller("sim", "run", ["a.trace"]) == ["a.trace"]
