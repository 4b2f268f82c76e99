"""The commands convert, arrivals, fit, synthetic and analyse: help, mistakes, and import costs."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.settings import descriptions
from traces.__main__ import main
from traces.convert.conversion_settings import LogReading
from traces.convert.routing_row import ROW_PARTS
from traces.published_models import PUBLISHED
from traces.synthetic.coefficients import PHRASES
from traces.synthetic.synthetic_settings import ShapeSettings, StatisticsSettings
from traces.synthetic.trajectory_search import DISTANCE, MAPS

HEAVY = {"torch", "transformers", "pandas", "pyarrow", "matplotlib", "sklearn", "scipy"}
FORMATS = ("npz", "jsonl", "policylang", "store", "counts")
COMMANDS = [["convert"], *(["convert", each] for each in FORMATS), ["arrivals"], ["fit"], ["synthetic"], ["analyse"]]

# Of each command, a mistake that takes no file to see, and what is said.
CHEAP = {
    "npz": (
        "convert npz x --model mixtral --out a.trace",
        "--model: unknown model 'mixtral'; did you mean 'mixtral-8x7b'? (any other model needs --shape)",
    ),
    "jsonl": (
        "convert jsonl x --model gpt-oss-20b --out a.trace --warmup-passes 1",
        "--warmup-passes: needs --index pass",
    ),
    "policylang": (
        "convert policylang x --model gpt-oss-20b --out a.trace --first-layer -1",
        "--first-layer: must be at least 0, not -1",
    ),
    "store": (
        "convert store x --model gpt-oss-20b --out a.npy",
        "--out: must be a name that ends in .trace, not a.npy",
    ),
    "counts": (
        "convert counts x --model gpt-oss-20b --out a.trace",
        "--out: must be a name that ends in .parquet, not a.trace",
    ),
    "arrivals": (
        "arrivals gamma --rate 1 --requests 2",
        "--burstiness: is required for gamma; 1 gives a Poisson process",
    ),
    "fit": (
        "fit x --workload w --out a.trace --max-prompt-tokens 0",
        "--max-prompt-tokens: must be at least 1, not 0",
    ),
    "synthetic": (
        "synthetic --out a.trace --top-k 9",
        "--top-k: must be at most 8, the number of experts in a layer, not 9",
    ),
    "analyse": (
        "analyse x --train-split 2",
        "--train-split: must be at least 0 and at most 1, not 2.0",
    ),
}


ONE_BY_ONE = f"""
import contextlib, io, json, sys
from traces.__main__ import main

ran = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(words)
    ran.append((status, sorted({HEAVY!r} & sys.modules.keys()), err.getvalue()))
print(json.dumps(ran))
"""


@dataclass(frozen=True)
class Ran:
    """A command's exit status, which heavy packages were loaded after it, and what it said."""

    status: int
    heavy: list[str]
    said: str


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target that is there."""
    out = tmp_path_factory.mktemp("there") / "a.trace"
    out.mkdir()
    return out


@pytest.fixture(scope="module")
def ran(there: Path) -> dict[str, list[Ran]]:
    """Commands of three kinds, one by one in a new interpreter, those that may load the least first."""
    commands = {
        "cheap mistakes": [words.split() for words, _ in CHEAP.values()],
        "help": [[*words, "--help"] for words in COMMANDS],
        "target": [["synthetic", "--out", str(there)]],
    }
    line = [sys.executable, "-c", ONE_BY_ONE, json.dumps([words for some in commands.values() for words in some])]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[3])
    results = iter(json.loads(done.stdout))
    return {kind: [Ran(*next(results)) for _ in some] for kind, some in commands.items()}


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*words, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_is_grouped_and_has_an_example(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = help_of(words, capsys)
    assert f"Example: finemoe traces {' '.join(words)} " in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 100
    if words != ["convert"]:
        assert "─ Output ─" in shown
        assert "─ Parameters ─" not in shown  # every option is under a heading of its own


def test_help_loads_nothing_heavy(ran: dict[str, list[Ran]]) -> None:
    assert [(one.status, one.heavy) for one in ran["help"]] == [(0, [])] * len(COMMANDS)


@pytest.mark.parametrize("command", CHEAP)
def test_a_cheap_mistake_is_one_line_spelled_as_an_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, line = CHEAP[command]
    assert main(words.split()) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_cheap_mistakes_are_reported_before_anything_heavy_is_loaded(ran: dict[str, list[Ran]]) -> None:
    assert ran["cheap mistakes"] == [Ran(2, [], f"error: {line}\n") for _, line in CHEAP.values()]


def test_a_target_that_is_there_is_reported_before_anything_is_read(ran: dict[str, list[Ran]], there: Path) -> None:
    said = f"error: {there} exists already; choose another name, or replace it with --overwrite\n"
    assert ran["target"] == [Ran(2, [], said)]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("synthetic --out a.trace --overlp 0.5", "unknown option --overlp; did you mean --overlap?"),
        ("convert jsonl x --model gpt-oss-20b --out a.trace --feild a=b", "did you mean --field?"),
        ("convert jsonl x --modl gpt-oss-20b --out a.trace", "unknown option --modl; did you mean --model?"),
        ("convert npx", "unknown command 'npx'; did you mean 'npz'?"),
        (
            "convert jsonl x --model gpt-oss-20b --out a.trace --index batch",
            "--index: must be request or pass, not 'batch'",
        ),
        ("fit x --out a.trace", "--workload: is required"),
        ("fit --workload w --out a.trace", "TRACE: is required"),
        ("arrivals", "WORKLOAD: is required"),
        ("analyse a b", "unexpected argument: b"),
        ("analyse a --sample 1.5", "--sample: must be a whole number, not '1.5'"),
        ("synthetic --out a.trace --shape 3", "unknown option --shape"),
    ],
)
def test_other_mistakes_are_one_line_with_the_nearest_name(
    words: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert line in said.err


def test_what_help_says_in_words_is_what_the_code_does() -> None:
    assert all(name in descriptions(ShapeSettings)["model"] for name in PUBLISHED)
    assert all(part in descriptions(LogReading)["field"] for part in ROW_PARTS)
    recall = descriptions(StatisticsSettings)["trajectory_recall"]
    assert f"{DISTANCE} layers ahead" in recall
    assert f"{MAPS:,} maps of other requests" in recall
    assert f"{PHRASES} recurring token sequences per cluster" in recall
