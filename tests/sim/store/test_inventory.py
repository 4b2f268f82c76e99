"""`sim store`: what is there, and what may go."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from common.files import host
from sim.__main__ import main
from sim.store import inventory
from sim.store.result_store import ResultStore
from sim.sweeps.sweep_run import run_sweep
from tests.support.sweep_runs import HERE, run_bytes, small_experiment


@pytest.fixture(scope="module")
def filled(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inventory") / "store"
    run_sweep(small_experiment(trace), store=folder, references=("no-offload", "lower-bound"), workers=HERE)
    return folder


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    capsys.readouterr()
    assert main(["store", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_run_is_listed_once_with_its_figures(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = printed(capsys, "ls", filled)
    assert len(runs) == 8 + 2
    assert {run["policy"] for run in runs} == {"finemoe", "lru", "no-offload"}
    assert all(run["current"] for run in runs)
    assert main(["store", "ls", str(filled)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 10


def test_the_contents_of_a_store_are_counted(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "info", filled)
    assert (found["runs"], found["bounds"], found["failures"], found["runs_broken"]) == (10, 4, 0, 0)
    assert found["runs_bytes"] == sum(map(len, run_bytes(filled).values())) - sum(
        path.stat().st_size for path in filled.glob("bounds/*/*")
    )
    assert found["artefacts"] > 0


def test_useful_runs_are_not_deleted(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = run_bytes(filled)
    assert main(["store", "gc", str(filled)]) == 0
    assert capsys.readouterr().out == "nothing to delete\n"
    assert run_bytes(filled) == before


def test_broken_runs_leftovers_and_unused_artefacts_are_deleted(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "store"
    shutil.copytree(filled, folder)
    store = ResultStore.open(folder)
    broken, *whole = store.runs()
    (broken.path / "requests.parquet").write_bytes(b"")
    in_the_way = broken.path.with_name(broken.key[:2] + "0" * 62)
    in_the_way.write_text("no folder")
    copied = broken.path.with_name(broken.key[:2] + "1" * 62)
    shutil.copytree(whole[0].path, copied)
    dead = broken.path.with_name(f"{broken.key}.{host()}-4194304-1.partial")  # above the largest process number
    dead.mkdir()
    alive = broken.path.with_name(f"{broken.key}.{host()}-{os.getpid()}-1.partial")
    alive.mkdir()
    long_ago = time.time() - 40 * inventory.DAY_S
    for path in (folder / "artefacts").rglob("*"):
        os.utime(path, (long_ago, long_ago))
    words = ["store", "gc", str(folder), "--unused-days", "30"]
    assert main([*words, "--dry-run"]) == 0
    would = capsys.readouterr().out
    assert broken.path.exists()
    assert dead.exists()
    assert main(words) == 0
    assert capsys.readouterr().out == would.replace("would delete", "deleted")
    assert not any(path.exists() for path in (broken.path, in_the_way, copied))
    assert not dead.exists()
    assert alive.exists()
    assert {run.key for run in store.runs()} == {run.key for run in whole}
    assert list((folder / "artefacts").rglob("*.npy")) == []


def test_runs_of_other_library_versions_are_deleted(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    shutil.copytree(filled, folder)
    code = inventory.code_facts()
    monkeypatch.setattr(inventory, "code_facts", lambda: code | {"numpy": "0.0"})
    assert main(["store", "gc", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("deleted 10 runs made with other versions of the code or libraries")
    assert list(ResultStore.open(folder).runs()) == []


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("ls", "info", "gc"):
        assert main(["store", command, str(tmp_path)]) == 2
        assert "is not a result store" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
