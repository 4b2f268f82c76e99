"""The table at the top of the README is what its two commands give."""

import json
import re
from pathlib import Path

import pytest

from sim.__main__ import main as sim
from traces.__main__ import main as traces

pytest.importorskip("torch", reason="torch is not installed")

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def words(program: str) -> list[str]:
    """The words of the first command of a program that the README shows, behind the program's name."""
    (command,) = re.findall(rf"^finemoe {program} ((?:[^\n]*\\\n)*[^\n]*)$", README, re.MULTILINE)[:1]
    return str(command).replace("\\\n", " ").split()


@pytest.mark.slow
def test_the_table_of_the_readme_is_what_its_commands_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert traces(words("traces")) == 0
    capsys.readouterr()
    assert sim([*(word for word in words("sim") if word != "--brief"), "--references", "none", "--json"]) == 0
    runs = {run["policy"]: run for run in json.loads(capsys.readouterr().out)}
    shown = re.findall(r"^\| `([\w-]+)`[^|]* \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", README, re.MULTILINE)
    assert [policy for policy, *_ in shown] == list(runs)
    for policy, *cells in shown:
        run = runs[policy]
        found = [
            1e3 * run["ttft_s_mean"],
            1e3 * run["tpot_s_mean"],
            100 * run["hit_rate"],
            1e-9 * run["bytes_per_token"],
        ]
        # On another processor sums are rounded otherwise, so near-equal maps may change places.
        assert [float(cell) for cell in cells] == pytest.approx(found, rel=0.01, abs=0.06)
