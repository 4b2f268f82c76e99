"""The commands convert, arrivals, fit, synthetic and analyse: help, mistakes, and import costs."""

import json
import subprocess
import sys
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


def loaded_by(*commands: list[str]) -> tuple[list[int], set[str], str]:
    """Exit statuses of commands, one by one in a new interpreter, the heavy packages they load, and what they say."""
    code = (
        "import json, sys; from traces.__main__ import main; "
        "statuses = [main(words) for words in json.loads(sys.argv[1])]; "
        f"print(json.dumps([statuses, sorted({HEAVY!r} & sys.modules.keys())]))"
    )
    line, root = [sys.executable, "-c", code, json.dumps(commands)], Path(__file__).parents[3]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=root)
    statuses, found = json.loads(done.stdout.splitlines()[-1])
    return statuses, set(found), done.stderr


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


def test_help_loads_nothing_heavy() -> None:
    assert loaded_by(*([*words, "--help"] for words in COMMANDS))[:2] == ([0] * len(COMMANDS), set())


@pytest.mark.parametrize("command", CHEAP)
def test_a_cheap_mistake_is_one_line_spelled_as_an_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, line = CHEAP[command]
    assert main(words.split()) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_cheap_mistakes_are_reported_before_anything_heavy_is_loaded() -> None:
    said = "".join(f"error: {line}\n" for _, line in CHEAP.values())
    assert loaded_by(*(words.split() for words, _ in CHEAP.values())) == ([2] * len(CHEAP), set(), said)


def test_a_target_that_is_there_is_reported_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.trace").mkdir()
    statuses, heavy, said = loaded_by(["synthetic", "--out", str(tmp_path / "a.trace")])
    assert (statuses, heavy) == ([2], set())
    assert said == f"error: {tmp_path}/a.trace exists already; choose another name, or replace it with --overwrite\n"


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
