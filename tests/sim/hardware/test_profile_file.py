"""A profile's file: what is written is read back, and mistakes in it are told in one line."""

import errno
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from policies.types import ModelShape
from sim.hardware.effects import Effects
from sim.hardware.parts import Contention, Framework, Host
from sim.hardware.profile import Profile, Table, read_profile, write_profile
from tests.support.builders import shape
from tests.support.profiles import flat_profile

MODEL = shape()


def measured(**changes: Any) -> Profile:
    return flat_profile(MODEL, name="demo", **changes)


positive = st.floats(min_value=1e-300, max_value=1e300)
slowdowns = st.floats(min_value=1, max_value=1e300)
not_negative = st.floats(min_value=0, max_value=1e300)
names = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp", "Co", "Cn", "Cf", "Zs")), min_size=1)
texts = st.text(st.characters(exclude_categories=("Cs",)))
whole = st.integers(1, 2**62)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    points = draw(st.dictionaries(whole, positive, min_size=1, max_size=8))
    return Table(sizes=tuple(sorted(points)), seconds=tuple(points[size] for size in sorted(points)))


SIZES = ("layers", "experts", "top_k", "hidden", "expert_ffn", "attention_heads", "kv_heads", "head_dim", "vocab")
models = st.builds(
    ModelShape,
    name=names,
    shared_ffn=st.integers(0, 2**62),
    weight_bytes=positive,
    **dict.fromkeys(SIZES, whole),
)
profiles = st.builds(
    Profile,
    name=names,
    gpus=whole,
    model=models,
    **{name: tables() for name in ("expert", "dense", "head", "copy")},
    **dict.fromkeys(("dense_s_per_attended", "driving_s", "search_overhead_s"), not_negative),
    copy_latency_s=st.just(0.0) | st.just(1e-301),
    host=st.builds(Host, memory_bytes_per_s=positive | st.just(float("inf"))),
    framework=st.builds(Framework, layer_s=not_negative, expert_s=not_negative),
    contention=st.builds(Contention, compute_slowdown=slowdowns, copy_slowdown=slowdowns),
    demand_loading=st.sampled_from(["parallel", "serial"]),
    most_attended=st.integers(0, 2**62),
    search_bytes_per_s=positive,
    search_flops_per_s=positive,
    measured=st.dictionaries(texts, texts | st.integers(-(2**62), 2**62) | st.floats(-1e300, 1e300)),
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(profiles)
def test_what_is_written_is_read_back(tmp_path: Path, profile: Profile) -> None:
    path = tmp_path / "a.toml"
    write_profile(path, profile)
    assert read_profile(path) == profile
    assert profile.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(tmp_path.iterdir()) == [path]


def test_a_difference_in_any_value_is_another_hash() -> None:
    changed = [
        measured(),
        measured(driving_s=2.0),
        measured(seconds={"copy": 11.0}),
        measured(copy_latency_s=1.0),
        measured(host=Host(memory_bytes_per_s=1e9)),
        measured(framework=Framework(layer_s=1.0)),
        measured(framework=Framework(expert_s=1.0)),
        measured(contention=Contention(compute_slowdown=2.0)),
        measured(contention=Contention(copy_slowdown=2.0)),
        measured(demand_loading="serial"),
        measured(most_attended=99),
        measured(measured={}),
        replace(measured(), name="other"),
        replace(measured(), model=replace(MODEL, vocab=11)),
    ]
    assert len({profile.digest for profile in changed}) == len(changed)


def test_the_order_of_the_provenance_does_not_matter() -> None:
    one, other = measured(measured={"a": 1, "b": 2}), measured(measured={"b": 2, "a": 1})
    assert one == other
    assert one.digest == other.digest


def test_the_file_is_readable_for_people(tmp_path: Path) -> None:
    write_profile(tmp_path / "demo.toml", measured())
    lines = (tmp_path / "demo.toml").read_text().splitlines()
    assert lines[:2] == ['name = "demo"', "gpus = 1"]
    assert [line for line in lines if line.startswith("[")] == [
        *("[model]", "[measured]", "[expert]", "[dense]", "[head]", "[copy]", "[driving]", "[search]")
    ]


def test_what_was_not_measured_is_not_in_the_file_and_off(tmp_path: Path) -> None:
    write_profile(tmp_path / "demo.toml", measured(contention=Contention(copy_slowdown=1.5)))
    text = (tmp_path / "demo.toml").read_text()
    assert text.endswith("[contention]\ncopy_slowdown = 1.5\n")
    for absent in ("[host]", "[framework]", "demand_loading", "compute_slowdown"):
        assert absent not in text
    found = read_profile(tmp_path / "demo.toml")
    assert found.cost(MODEL).effects == Effects(copy_slowdown=1.5)


def test_seconds_may_be_whole_numbers(tmp_path: Path) -> None:
    path = changed(tmp_path, "[driving]\nseconds = 1.0\n", "[driving]\nseconds = 1\n")
    assert read_profile(path) == measured()


def changed(folder: Path, before: str, after: str) -> Path:
    """The file of `measured()` with a text that it holds once replaced."""
    path = folder / "demo.toml"
    write_profile(path, measured())
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))
    return path


EXPERT = "[expert]\ntokens = [\n    1,\n    1000,\n]\nseconds = [\n    4.0,\n    4.0,\n]\n"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("gpus = 1\n", "gpus = 0\n", "gpus: must be a finite number above 0, not 0"),
        ("gpus = 1\n", "gpus = true\n", "gpus: must be a whole number, not True"),
        ("gpus = 1\n", "gpus = 1.0\n", "gpus: must be a whole number, not 1.0"),
        ("gpus = 1\n", "", "gpus: is required"),
        ("gpus = 1\n", "gpu = 1\n", "unknown key 'gpu'; did you mean 'gpus'?"),
        ('name = "demo"\n', "name = 3\n", "name: must be a string, not 3"),
        ('name = "demo"\n', 'name = ""\n', "name: must be a printable name, not ''"),
        ('name = "demo"\n', 'name = "a\\nb"\n', "name: must be a printable name, not 'a\\nb'"),
        ("hidden = 2\n", "hiden = 2\n", "unknown key 'model.hiden'; did you mean 'model.hidden'?"),
        ("hidden = 2\n", "", "model.hidden: is required"),
        ("hidden = 2\n", "hidden = -2\n", "model.hidden: must be a finite number above 0, not -2"),
        ("weight_bytes = 2.0\n", 'weight_bytes = "2"\n', "model.weight_bytes: must be a number, not '2'"),
        (
            "weight_bytes = 2.0\n",
            "weight_bytes = inf\n",
            "model.weight_bytes: must be a finite number above 0, not inf",
        ),
        ("shared_ffn = 0\n", "shared_ffn = -1\n", "model.shared_ffn: must be finite and at least 0, not -1"),
        ("[driving]", "[[driving]]", "driving: must be a table, not [{'seconds': 1.0}]"),
        (EXPERT, "", "expert: is required"),
        (EXPERT, "[expert]\ntokens = [1]\n", "expert.seconds: is required"),
        (EXPERT, "[expert]\ntokens = 1\nseconds = [1]\n", "expert.tokens: must be a list, not 1"),
        (EXPERT, "[expert]\ntokens = [1.5]\nseconds = [1]\n", "expert.tokens: must be a whole number, not 1.5"),
        (EXPERT, "[expert]\ntokens = []\nseconds = []\n", "expert.tokens: is empty; at least one point is needed"),
        (EXPERT, "[expert]\ntokens = [1, 2]\nseconds = [1]\n", "expert.seconds: has 1 values, but expert.tokens has 2"),
        (
            EXPERT,
            "[expert]\ntokens = [2, 2]\nseconds = [1, 1]\n",
            "expert.tokens: must be above 0 and increase, but 2 follows 2",
        ),
        (
            EXPERT,
            "[expert]\ntokens = [0]\nseconds = [1]\n",
            "expert.tokens: must be above 0 and increase, but 0 follows 0",
        ),
        (
            EXPERT,
            "[expert]\ntokens = [1]\nseconds = [nan]\n",
            "expert.seconds: must be a finite number above 0, not nan",
        ),
        (
            EXPERT,
            "[expert]\ntokens = [1]\nseconds = [-1]\n",
            "expert.seconds: must be a finite number above 0, not -1.0",
        ),
        (
            EXPERT,
            "[expert]\ntokens = [1]\nseconds = [0]\n",
            "expert.seconds: must be a finite number above 0, not 0.0",
        ),
        (EXPERT, "[expert]\ntokens = [1]\nseconds = ['1']\n", "expert.seconds: must be a number, not '1'"),
        (EXPERT, "[expert]\nrows = [1]\nseconds = [1]\n", "unknown key 'expert.rows'; "),
        (
            "seconds_per_attended = 0.0\n",
            "seconds_per_attended = nan\n",
            "dense.seconds_per_attended: must be finite and at least 0, not nan",
        ),
        (
            "most_attended = 100000\n",
            "most_attended = -1\n",
            "dense.most_attended: must be finite and at least 0, not -1",
        ),
        (
            "[driving]\nseconds = 1.0\n",
            "[driving]\nseconds = -1.0\n",
            "driving.seconds: must be finite and at least 0, not -1.0",
        ),
        (
            "overhead_s = 0.5\n",
            "overhead_s = 1" + 400 * "0" + "\n",
            "must be a number that a 64-bit float can represent",
        ),
        (
            "flops_per_s = 1000.0\n",
            "flops_per_s = 0\n",
            "search.flops_per_s: must be a finite number above 0, not 0.0",
        ),
        (
            "\nbytes_per_s = 1000.0\n",
            "\nbytes_per_s = -inf\n",
            "search.bytes_per_s: must be a finite number above 0, not -inf",
        ),
        ("threads = 1\n", "threads = [1]\n", "measured.threads: must be a string or a number, not [1]"),
        ("threads = 1\n", "threads = nan\n", "measured.threads: must be a finite number, not nan"),
        ("gpus = 1\n", "gpus = = 1\n", "is not TOML: "),
        ("gpus = 1\n", "gpus = 1\ngpus = 1\n", "is not TOML: "),
        ("gpus = 1\n", "gpus = " + 5000 * "[" + "\n", "is not TOML: "),
        ("latency_s = 0.0\n", "latency_s = -1.0\n", "copy.latency_s: must be finite and at least 0, not -1.0"),
        ("latency_s = 0.0\n", "latency_s = 10\n", "copy.latency_s: must be below copy.seconds, not 10.0"),
        ("gpus = 1\n", 'gpus = 1\ndemand_loading = "one"\n', "demand_loading: must be parallel or serial, not 'one'"),
        ("gpus = 1\n", "gpus = 1\nhost = 3\n", "host: must be a table, not 3"),
        ("[search]", "[contention]\ncopy_slowdown = 0.5\n[search]", "contention.copy_slowdown: must be at least 1"),
        ("[search]", "[framework]\nlayers_s = 1\n[search]", "framework.layers_s: is not a setting; did you mean"),
        ("[search]", "[serach]", "unknown key 'serach'; did you mean 'search'?"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_file_key_and_value(
    tmp_path: Path, before: str, after: str, said: str
) -> None:
    path = changed(tmp_path, before, after)
    with pytest.raises(UserError) as error:
        read_profile(path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "said"), [(None, "does not exist"), (b"\xff\xfe", "is not TOML"), (b"", "model: is required")]
)
def test_a_file_that_is_not_a_profile_is_an_error_of_one_line(tmp_path: Path, data: bytes | None, said: str) -> None:
    path = tmp_path / "a.toml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=said) as error:
        read_profile(path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_folder_is_no_profile(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Is a directory"):
        read_profile(tmp_path)


def test_a_measurement_that_cannot_be_is_refused_before_it_is_written() -> None:
    with pytest.raises(UserError, match=r"^expert.seconds: must be a finite number above 0, not nan$"):
        measured(seconds={"expert": float("nan")})


def test_failed_writing_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.toml"
    write_profile(path, measured())
    before = path.read_bytes()

    def full(partial: Path, data: bytes) -> None:
        with partial.open("wb") as file:
            file.write(data[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError) as error:
        write_profile(path, measured(driving_s=3.0))
    assert str(error.value) == f"{path}: the file could not be written: No space left on device"
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
