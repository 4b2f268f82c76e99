"""The cache of derived artefacts: what it gives back is what was put in, whatever happens to its folder."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.hashing import sha256_of_json
from sim.artefacts import META, Artefacts, StoredArtefact

ROOT = Path(__file__).parents[2]

ARRAYS: dict[str, Any] = {
    "gate": np.random.default_rng(0).random((7, 3, 5)).astype(np.float16),
    "columns": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "every other": np.arange(20)[::2],
    "none": np.zeros((0, 4), np.int16),
    "number": np.array(-3),
    "../über/alles": np.array([True, False]),
}


@pytest.fixture
def artefacts(tmp_path: Path) -> Artefacts:
    return Artefacts(tmp_path / "artefacts", "code")


def key_of(artefacts: Artefacts, **facts: Any) -> str:
    return artefacts.key("learned", facts)


def folder_of(artefacts: Artefacts, key: str) -> Path:
    assert artefacts.folder is not None
    return artefacts.folder / "learned" / key[:2] / f"{key}.artefact"


def equal(found: Any, arrays: Any = ARRAYS) -> bool:
    return found.keys() == arrays.keys() and all(
        found[name].dtype == array.dtype
        and found[name].shape == array.shape
        and found[name].tobytes() == array.tobytes()
        for name, array in arrays.items()
    )


def unmade() -> Any:
    raise AssertionError("made anew")


def test_an_artefact_is_returned_bit_for_bit_and_read_only(artefacts: Artefacts) -> None:
    key = key_of(artefacts, a=1)
    assert artefacts.get("learned", key) is None
    for found in (
        artefacts.made("learned", key, lambda: ARRAYS),
        artefacts.made("learned", key, unmade),
        Artefacts(artefacts.folder, "code").get("learned", key),
    ):
        assert found is not None
        assert equal(found)
        assert not any(array.flags.writeable for array in found.values())
        assert {type(array) for array in found.values()} == {np.ndarray}


def test_an_artefact_may_have_no_arrays(artefacts: Artefacts) -> None:
    key = key_of(artefacts)
    artefacts.put("learned", key, {})
    assert artefacts.made("learned", key, unmade) == {}


def test_without_a_folder_nothing_is_kept() -> None:
    nowhere = Artefacts(None, "code")
    key = key_of(nowhere)
    assert not nowhere.kept
    found = nowhere.made("learned", key, lambda: ARRAYS)
    assert equal(found)
    assert not any(array.flags.writeable for array in found.values())
    nowhere.put("learned", key, ARRAYS)
    assert nowhere.get("learned", key) is None
    assert list(nowhere) == []


def test_keys_differ_by_kind_facts_and_code(artefacts: Artefacts) -> None:
    keys = {
        key_of(artefacts, a=1, b=[2]),
        key_of(artefacts, a=1, b=[3]),
        key_of(Artefacts(None, "edited code"), a=1, b=[2]),
        artefacts.key("routing", {"a": 1, "b": [2]}),
    }
    assert len(keys) == 4
    assert key_of(Artefacts(None, "code"), b=[2], a=1) in keys


def test_the_order_of_arrays_does_not_change_an_artefacts_files(tmp_path: Path) -> None:
    files = []
    for number, arrays in enumerate((ARRAYS, dict(reversed(ARRAYS.items())))):
        one = Artefacts(tmp_path / str(number), "code")
        one.put("learned", key_of(one), arrays)
        files.append({file.name: file.read_bytes() for file in folder_of(one, key_of(one)).iterdir()})
    assert files[0] == files[1]
    assert len(files[0]) == len(ARRAYS) + 1


def test_objects_are_not_pickled(artefacts: Artefacts) -> None:
    with pytest.raises(ValueError, match="pickle"):
        artefacts.put("learned", key_of(artefacts), {"a": np.array([{}])})
    assert list(artefacts) == unfinished(artefacts) == []


# ---- broken artefacts ------------------------------------------------------------------------------------------------


def flipped(folder: Path) -> None:
    content = bytearray((folder / "2.npy").read_bytes())
    content[-1] ^= 1
    (folder / "2.npy").write_bytes(content)


def truncated(folder: Path) -> None:
    os.truncate(folder / "2.npy", (folder / "2.npy").stat().st_size - 1)


def without_array(folder: Path) -> None:
    (folder / "2.npy").unlink()


def without_meta(folder: Path) -> None:
    (folder / META).unlink()


def half_a_meta(folder: Path) -> None:
    os.truncate(folder / META, 40)


def other_json(folder: Path) -> None:
    (folder / META).write_text("[1]")


def changed_meta(folder: Path, **changes: Any) -> None:
    meta = json.loads((folder / META).read_text())
    meta |= changes
    meta["sha256"] = sha256_of_json({name: value for name, value in meta.items() if name != "sha256"})
    (folder / META).write_text(json.dumps(meta))


def unsealed(folder: Path) -> None:
    meta = json.loads((folder / META).read_text())
    (folder / META).write_text(json.dumps(meta | {"arrays": {}}))


def other_schema(folder: Path) -> None:
    changed_meta(folder, schema=2)


def other_key(folder: Path) -> None:
    changed_meta(folder, key="0" * 64)


def a_file_in_its_place(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("what is this")


BREAKS = (
    flipped,
    truncated,
    without_array,
    without_meta,
    half_a_meta,
    other_json,
    unsealed,
    other_schema,
    other_key,
    a_file_in_its_place,
)


@pytest.mark.parametrize("breaks", BREAKS)
def test_a_broken_artefact_is_detected_and_made_again(artefacts: Artefacts, breaks: Callable[[Path], None]) -> None:
    key = key_of(artefacts)
    artefacts.put("learned", key, ARRAYS)
    breaks(folder_of(artefacts, key))
    assert artefacts.get("learned", key) is None
    assert equal(artefacts.made("learned", key, lambda: ARRAYS))
    assert equal(artefacts.made("learned", key, unmade))
    assert artefacts.kept


READER = """
import sys
from pathlib import Path
from sim.artefacts import Artefacts
print(Artefacts(Path(sys.argv[1]), "code").get("learned", sys.argv[2]) is None)
"""


@pytest.mark.parametrize("breaks", [flipped, truncated, other_schema])
def test_another_process_detects_it_too(artefacts: Artefacts, breaks: Callable[[Path], None]) -> None:
    key = key_of(artefacts)
    artefacts.put("learned", key, ARRAYS)
    breaks(folder_of(artefacts, key))
    said = subprocess.run(
        [sys.executable, "-c", READER, str(artefacts.folder), key], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout == "True\n"


# ---- disks that refuse -----------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_costs_one_line_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    refused = Artefacts(tmp_path / "file" / "artefacts", "code")
    assert refused.kept
    for number in range(3):
        assert equal(refused.made("learned", key_of(refused, number=number), lambda: ARRAYS))
    assert not refused.kept
    (line,) = capsys.readouterr().err.splitlines()
    assert str(refused.folder) in line
    assert "Not a directory" in line


def test_a_full_disk_costs_one_line_and_leaves_nothing(
    artefacts: Artefacts, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files may have no more than 100,000 bytes, which is refused as a full disk is: in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    large = {"a": np.arange(10), "b": np.arange(100_000)}
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        for number in range(2):
            assert equal(artefacts.made("learned", key_of(artefacts, number=number), lambda: large), large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(artefacts) == unfinished(artefacts) == []


# ---- several processes -----------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
import numpy as np
import sim.artefacts
artefacts = sim.artefacts.Artefacts(Path(sys.argv[1]), "code")
write = sim.artefacts._write
def waiting(*given):
    write(*given)
    print("written", flush=True)
    sys.stdin.readline()
sim.artefacts._write = waiting
found = artefacts.made("learned", sys.argv[2], lambda: {"a": np.arange(50_000)})
print(int(found["a"].sum()), artefacts.kept, type(found["a"].base).__name__, flush=True)
"""


def writer_of(artefacts: Artefacts, key: str) -> "subprocess.Popen[str]":
    """A process that has written all of an artefact and waits for a line before it is done."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(artefacts.folder), key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "written\n"
    return writer


def unfinished(artefacts: Artefacts) -> list[Path]:
    assert artefacts.folder is not None
    return list(artefacts.folder.glob("*/??/*.partial*"))


def test_if_two_processes_write_one_artefact_the_slower_discards_its_copy(artefacts: Artefacts) -> None:
    key = key_of(artefacts)
    writers = [writer_of(artefacts, key) for _ in "ab"]
    assert len(unfinished(artefacts)) == 2
    assert list(artefacts) == []
    for writer in writers:
        out, err = writer.communicate("go\n", timeout=120)
        assert (writer.returncode, err) == (0, "")
        assert out == f"{sum(range(50_000))} True memmap\n"
    assert [each.key for each in artefacts] == [key]
    assert unfinished(artefacts) == []


def test_a_killed_writer_leaves_nothing_that_is_read_and_the_next_one_clears_up(artefacts: Artefacts) -> None:
    key = key_of(artefacts)
    writer = writer_of(artefacts, key)
    writer.kill()
    writer.communicate(timeout=120)
    assert artefacts.get("learned", key) is None
    assert list(artefacts) == []
    (left,) = unfinished(artefacts)
    assert {file.name for file in left.iterdir()} == {META, "0.npy"}
    assert equal(artefacts.made("learned", key, lambda: ARRAYS))
    assert unfinished(artefacts) == []


def test_a_removed_artefact_stays_readable_for_its_users(artefacts: Artefacts) -> None:
    key = key_of(artefacts)
    found = artefacts.made("learned", key, lambda: ARRAYS)
    shutil.rmtree(artefacts.path("learned", key))
    assert equal(found)
    assert artefacts.get("learned", key) is None


# ---- the list --------------------------------------------------------------------------------------------------------


def test_the_list_has_kind_key_bytes_and_last_use(artefacts: Artefacts) -> None:
    keys = sorted(key_of(artefacts, number=number) for number in range(3))
    for key in keys:
        artefacts.put("learned", key, ARRAYS)
    routing = artefacts.key("routing", {})
    artefacts.put("routing", routing, ARRAYS)
    listed = list(artefacts)
    assert [(each.kind, each.key) for each in listed] == [("routing", routing), *(("learned", key) for key in keys)]
    size = sum(file.stat().st_size for file in folder_of(artefacts, keys[0]).iterdir())
    assert {each.bytes for each in listed[1:]} == {size}

    for key in keys:
        os.utime(folder_of(artefacts, key) / META, (1000, 1000))
    before = time.time()
    artefacts.get("learned", keys[1])
    used = {each.key: each.used_s for each in artefacts}
    assert used[keys[0]] == used[keys[2]] == 1000
    assert used[keys[1]] >= before - 1


def test_the_list_has_broken_artefacts_too_so_that_they_can_be_removed(artefacts: Artefacts) -> None:
    key = key_of(artefacts)
    artefacts.put("learned", key, ARRAYS)
    without_meta(folder_of(artefacts, key))
    (listed,) = artefacts
    assert isinstance(listed, StoredArtefact)
    assert listed.key == key
    shutil.rmtree(artefacts.path(listed.kind, listed.key))
    assert list(artefacts) == []
