"""The console script: the commands of all packages, whatever lies in the current folder."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from common.console import PACKAGES, main
from sim.__main__ import main as sim

SCRIPT = Path(sys.executable).with_name("finemoe")


def test_it_lists_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(f" {package} " in listed for package in PACKAGES)


def test_it_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"finemoe-lab {version('finemoe-lab')}\n"
    assert main(["sim", "--version"]) == 2


def test_a_command_is_the_one_of_its_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "policies"]) == 0
    through_script = capsys.readouterr().out
    assert sim(["policies"]) == 0
    assert through_script == capsys.readouterr().out


def test_a_misspelt_package_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simm"]) == 2
    assert capsys.readouterr() == ("", "error: unknown command 'simm'; did you mean 'sim'?\n")


def test_a_file_called_sim_py_in_the_current_folder_is_not_run(tmp_path: Path) -> None:
    Path(tmp_path, "sim.py").write_text("raise SystemExit('the wrong one')\n")
    found = subprocess.run([SCRIPT, "sim", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    assert "finemoe sim COMMAND" in found.stdout
