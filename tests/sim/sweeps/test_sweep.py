"""The table of a sweep, its folder, and its types."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from common.hashing import sha256_of_json
from sim import Scenario, simulate
from sim.sweeps.sweep import Sweep, holds_sweep
from tests.support.sweep_helpers import hand_made, simulated_sweep


@pytest.fixture(scope="module")
def sweep(trace: Path) -> Sweep:
    return simulated_sweep(trace, shares=(0.01, 0.5), seeds=(0, 1))


@pytest.fixture
def folder(sweep: Sweep, tmp_path: Path) -> Path:
    sweep.write(tmp_path / "sweep")
    return tmp_path / "sweep"


def test_a_sweep_is_read_as_it_was_written(sweep: Sweep, folder: Path) -> None:
    assert Sweep.read(folder) == sweep
    assert holds_sweep(folder)


def test_an_axis_with_a_limit_that_is_off_can_be_written(sweep: Sweep, tmp_path: Path) -> None:
    host = "machine.host.memory_bytes_per_s"
    frame = sweep.frame.rename(columns={"cache.share": host}).replace({host: {0.5: np.inf}})
    unlimited = Sweep(frame=frame, axes=("policy", host, "seed"), experiment={"grid": {host: [0.01, np.inf]}})
    unlimited.write(tmp_path / "unlimited")
    found = Sweep.read(tmp_path / "unlimited")
    assert found == unlimited
    assert np.isinf(found.frame[host]).any()


def test_pandas_opens_the_table_in_one_line(sweep: Sweep, folder: Path) -> None:
    opened = pd.read_parquet(folder / "sweep.parquet")
    pd.testing.assert_frame_equal(opened, sweep.frame)
    assert opened["status"].value_counts().to_dict() == {"done": 6, "refused": 6}
    assert list(opened.columns[:3]) == ["policy", "cache.share", "seed"]


def test_equal_sweeps_give_equal_bytes(sweep: Sweep, folder: Path) -> None:
    again = Sweep(frame=sweep.frame.copy(), axes=sweep.axes, experiment=sweep.experiment)
    again.write(folder.with_name("again"))
    for name in ("sweep.parquet", "meta.json"):
        assert (folder / name).read_bytes() == (folder.with_name("again") / name).read_bytes()


@pytest.mark.parametrize("column", ["tpot_s_mean", "policy", "hits"])
def test_sweeps_with_another_value_are_not_equal(sweep: Sweep, column: str) -> None:
    other = sweep.frame.copy()
    other[column] = other[column].shift()
    assert Sweep(frame=other.fillna({"policy": "lru"}), axes=sweep.axes, experiment={}) != sweep


@pytest.mark.parametrize("other", [{"axes": ("policy", "cache.share")}, {"experiment": {"scenario": {"seed": 1}}}])
def test_sweeps_over_other_axes_or_experiments_are_not_equal(sweep: Sweep, other: dict[str, Any]) -> None:
    assert Sweep(**({"frame": sweep.frame, "axes": sweep.axes, "experiment": {}} | other)) != sweep


def test_a_sweep_says_how_its_runs_ended(sweep: Sweep) -> None:
    assert repr(sweep) == "<Sweep over policy, cache.share, seed: 12 runs, 6 done, 6 refused>"


def test_types_of_columns_do_not_depend_on_how_runs_ended(sweep: Sweep) -> None:
    done = sweep.frame["status"] == "done"
    parts = [Sweep(frame=sweep.frame[rows], axes=sweep.axes, experiment={}).frame for rows in (done, ~done)]
    assert parts[0].dtypes.to_dict() == parts[1].dtypes.to_dict() == sweep.frame.dtypes.to_dict()
    kinds = {name: str(sweep.frame[name].dtype) for name in ("hits", "fits", "tpot_s_mean", "reason", "cache.share")}
    assert kinds == {
        "hits": "Int64",
        "fits": "boolean",
        "tpot_s_mean": "float64",
        "reason": "str",
        "cache.share": "float64",
    }


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None], "Int64"),
        ([1, 0.5], "float64"),
        ([1.0, 2.0], "float64"),
        ([np.int64(1), np.nan], "Int64"),
        ([True, None], "boolean"),
        ([True, 3], "str"),
        ([Path("a.trace"), "b.trace"], "str"),
        ([None, None], "float64"),
    ],
)
def test_an_axis_has_one_type_whatever_its_values_are(tmp_path: Path, values: list[Any], kind: str) -> None:
    made = hand_made([{"policy.x": value, "tpot_s_mean": 1.0} for value in values], "policy.x")
    assert str(made.frame["policy.x"].dtype) == kind
    made.write(tmp_path / "sweep")
    assert Sweep.read(tmp_path / "sweep") == made


def test_missing_and_doubled_columns_are_refused(sweep: Sweep) -> None:
    with pytest.raises(ValueError, match=r"missing: \['placement'\]"):
        Sweep(frame=sweep.frame.drop(columns="placement"), axes=("placement",), experiment={})
    with pytest.raises(ValueError, match=r"duplicate columns: \['hits'\]"):
        Sweep(frame=pd.concat([sweep.frame, sweep.frame[["hits"]]], axis=1), axes=(), experiment={})
    with pytest.raises(ValueError, match="values \\['lost'\\]"):
        Sweep(frame=sweep.frame.assign(status="lost"), axes=(), experiment={})


def test_an_existing_folder_is_not_overwritten(sweep: Sweep, folder: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        sweep.write(folder)


def lose(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def flip(name: str) -> Any:
    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return change


def another_version(folder: Path) -> None:
    path = folder / "meta.json"
    meta = json.loads(path.read_text()) | {"schema_version": 99}
    del meta["sha256"]
    path.write_text(json.dumps(meta | {"sha256": sha256_of_json(meta)}))


def test_a_sweep_replaces_a_sweep_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    sweep = Sweep.read(folder)
    sweep.write(folder, overwrite=True)
    assert Sweep.read(folder) == sweep
    (folder / "experiment.toml").touch()
    with pytest.raises(UserError, match=r"/sweep cannot be replaced: it has experiment\.toml, which is no part of"):
        sweep.write(folder, overwrite=True)
    assert (folder / "experiment.toml").exists()
    prompts = tmp_path / "prompts.jsonl"
    prompts.touch()
    with pytest.raises(UserError, match=r"cannot be replaced: it is a file"):
        sweep.write(prompts, overwrite=True)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shutil.rmtree, ": does not exist"),
        (lose("meta.json"), r"/meta\.json is missing; \S+ is not the folder of a sweep"),
        (lose("sweep.parquet"), r"/sweep\.parquet: is missing"),
        (flip("sweep.parquet"), r"/sweep\.parquet( was changed after it was written|: cannot be read: .*)"),
        (flip("meta.json"), r"/meta\.json.*"),
        (another_version, r"/meta\.json: field schema_version: must be 2, not 99; repeat the run"),
    ],
)
def test_a_damaged_folder_is_one_line(folder: Path, damage: Any, said: str) -> None:
    damage(folder)
    with pytest.raises(UserError) as error:
        Sweep.read(folder)
    assert re.fullmatch(rf"{re.escape(str(folder))}{said}", str(error.value))


def test_a_bit_flipped_anywhere_is_noticed(folder: Path) -> None:
    data = (folder / "sweep.parquet").read_bytes()
    for place in range(0, len(data), max(1, len(data) // 40)):
        changed = bytearray(data)
        changed[place] ^= 4
        (folder / "sweep.parquet").write_bytes(changed)
        with pytest.raises(UserError):
            Sweep.read(folder)


def test_a_folder_of_results_is_not_taken_for_a_sweep(trace: Path, tmp_path: Path) -> None:
    simulate(Scenario(trace, policy="lru")).write(tmp_path / "results")
    assert not holds_sweep(tmp_path / "results")
    with pytest.raises(UserError, match=r"results is not the folder of a sweep$"):
        Sweep.read(tmp_path / "results")


def test_a_sweep_whose_table_is_lost_is_still_taken_for_one(folder: Path) -> None:
    (folder / "sweep.parquet").unlink()
    assert holds_sweep(folder)
