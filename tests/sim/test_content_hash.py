"""The key of a run: equal keys give equal figures, and whatever can change a figure changes the key."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from policies.base import Policy, Prefetcher
from policies.evictors.recency import LeastRecentlyUsed
from policies.naming import sources_of
from policies.registry import PLUG_INS
from sim import content_hash as hashing
from sim.content_hash import content_hash
from sim.hardware.profile import write_profile
from sim.inputs import resolve
from sim.scenario import CacheSize, Scenario
from sim.simulation import simulate
from tests.support.profiles import flat_profile
from tests.support.run_helpers import SHAPE
from tests.support.trace_helpers import small_trace
from traces.analysis.expert_counts import write_counts

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scenario(trace: Path) -> Scenario:
    return Scenario(trace, policy="lru", machine="rtx3090")


def key(scenario: Scenario) -> str:
    return content_hash(scenario, resolve(scenario))


@pytest.mark.parametrize(
    "change",
    [
        {"policy": "lfu"},
        {"policy": "finemoe,capacity=9"},
        {"sizes": "mixtral-8x7b"},
        {"machine": "paper-a100"},
        {"cache": CacheSize(experts=9)},
        {"train_split": 0.5},
        {"requests": 2},
        {"batch_size": 2},
        {"placement": "balanced"},
        {"replicas": 2},
        {"chunk_bytes": "whole"},
        {"seed": 1},
    ],
)
def test_what_can_change_a_figure_changes_the_key(scenario: Scenario, change: dict[str, Any]) -> None:
    base = replace(scenario, machine="rtx3090x6")
    assert key(replace(base, **change)) != key(base)


def test_equal_sizes_and_splits_have_one_key_however_they_are_given(scenario: Scenario) -> None:
    """A fifth of 32 experts are 6, and there are no more than 3 requests to run."""
    assert key(replace(scenario, cache=CacheSize(share=0.2))) == key(replace(scenario, cache=CacheSize(experts=6)))
    assert key(replace(scenario, requests=3)) == key(scenario)


@pytest.mark.parametrize("library", hashing.LIBRARIES)
def test_another_version_of_a_library_has_another_key(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    before, installed = key(scenario), hashing.version
    monkeypatch.setattr(hashing, "version", lambda name: "0.0" if name == library else installed(name))
    assert key(scenario) != before


def test_inputs_of_another_split_have_another_key(scenario: Scenario) -> None:
    """Which requests run is the inputs' to say, whatever the scenario says."""
    reseeded = replace(scenario, seed=1)
    assert content_hash(reseeded, resolve(scenario)) != key(reseeded)


def test_expert_counts_are_hashed_by_content(scenario: Scenario, tmp_path: Path) -> None:
    keys = []
    for number in (1, 2, 1):
        path = tmp_path / f"{len(keys)}.parquet"
        write_counts(path, np.full((SHAPE.layers, SHAPE.experts), number), {"source": "a test"})
        keys.append(key(replace(scenario, placement="balanced", counts=path)))
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize("change", [{"detail": "events"}, {"check": True}, {"label": "mine"}])
def test_what_cannot_change_a_figure_does_not(scenario: Scenario, change: dict[str, Any]) -> None:
    assert key(replace(scenario, **change)) == key(scenario)


def test_every_field_is_hashed_or_named_as_not_hashed(scenario: Scenario) -> None:
    """So that a new field is not forgotten: one that is in neither list is hashed."""
    assert set(hashing.NO_EFFECT) == {"detail", "check", "label"}
    inputs = {"trace", "history", "train_split", "requests", "counts", "machine", "sizes", "cache"}
    assert set(hashing.BY_DIGEST) == inputs


def test_a_trace_is_hashed_by_content_not_by_path(scenario: Scenario, tmp_path: Path) -> None:
    shutil.copytree(scenario.trace, tmp_path / "copy.trace")
    other = small_trace(tmp_path / "other.trace", 9, shape=SHAPE)
    assert key(replace(scenario, trace=tmp_path / "copy.trace")) == key(scenario)
    assert key(replace(scenario, trace=other)) != key(scenario)
    assert key(replace(scenario, history=other)) != key(scenario)


def test_a_profile_is_hashed_by_content(scenario: Scenario, tmp_path: Path) -> None:
    write_profile(tmp_path / "a.toml", flat_profile(SHAPE))
    write_profile(tmp_path / "b.toml", flat_profile(SHAPE))
    write_profile(tmp_path / "c.toml", replace(flat_profile(SHAPE), driving_s=9.0))
    one, same, other = (key(replace(scenario, machine=str(tmp_path / f"{name}.toml"))) for name in "abc")
    assert one == same != other


POLICY = """
from policies.base import Policy, Prefetcher
from policies.evictors.recency import LeastRecentlyUsed
from {helper} import HELP


def mine():
    return Policy(prefetcher=Prefetcher(), evictor=LeastRecentlyUsed())
"""


def test_an_edited_policy_of_ones_own_has_another_key(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where what was edited is another file of its package."""
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "edited_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("HELP = 1\n")
    (package / "policy.py").write_text(POLICY.format(helper="edited_package.helper"))
    own = replace(scenario, policy="edited_package.policy:mine")
    before = key(own)
    assert key(own) == before
    (package / "helper.py").write_text("HELP = 2\n")
    assert key(own) != before
    (package / "helper.py").write_text("HELP = 1\n")
    assert key(own) == before


def test_an_edited_evictor_behind_the_plus_has_another_key(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "edited_evictor.py"
    text = "from policies.evictors.{} import {} as Mine\n"
    own = replace(scenario, policy="finemoe,capacity=9+edited_evictor:Mine")
    file.write_text(text.format("recency", "LeastRecentlyUsed"))
    recency = simulate(own)
    file.write_text(text.format("frequency", "LeastFrequentlyUsed"))
    frequency = simulate(own)
    assert recency.content_hash != frequency.content_hash
    for result, evictor in ((recency, "lru"), (frequency, "lfu")):
        assert result.iterations.equals(simulate(replace(scenario, policy=f"finemoe,capacity=9+{evictor}")).iterations)
    assert not recency.iterations.equals(frequency.iterations)


def test_a_file_beside_ones_own_policy_belongs_to_it(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it imports from its folder counts and runs as it is now; what merely lies there does not count."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lone_module.py").write_text(
        POLICY.format(helper="lone_helper").replace("LeastRecentlyUsed()", "HELP()")
    )
    own = replace(scenario, policy="lone_module:mine")
    helper = "from policies.evictors.{} import {} as HELP\n"
    (tmp_path / "lone_helper.py").write_text(helper.format("recency", "LeastRecentlyUsed"))
    recency = simulate(own)
    (tmp_path / "stranger.py").write_text("HELP = 1\n")
    assert key(own) == recency.content_hash
    (tmp_path / "lone_helper.py").write_text(helper.format("frequency", "LeastFrequentlyUsed"))
    frequency = simulate(own)
    assert recency.content_hash != frequency.content_hash == key(own)
    assert not recency.iterations.equals(frequency.iterations)


def test_a_policy_that_a_script_defines_itself_runs_and_has_no_key(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mine() -> Policy:
        return Policy(prefetcher=Prefetcher(), evictor=LeastRecentlyUsed())

    monkeypatch.setattr(sys.modules["__main__"], "mine", mine, raising=False)
    result = simulate(replace(scenario, policy="__main__:mine"))
    assert result.content_hash is None
    assert result.summary["tpot_s_mean"] == simulate(scenario).summary["tpot_s_mean"]


@pytest.mark.slow
def test_a_script_runs_its_own_policy_in_a_process_of_its_own(scenario: Scenario) -> None:
    script = POLICY.format(helper="sys").replace("import HELP", "import path") + (
        "from sim import Scenario, simulate\n"
        f"result = simulate(Scenario({str(scenario.trace)!r}, policy='__main__:mine', machine='rtx3090'))\n"
        "print(result.content_hash, result.summary['tpot_s_mean'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["None", str(simulate(scenario).summary["tpot_s_mean"])]


def test_the_sources_of_a_plug_in_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugged_in.py").write_text(POLICY.format(helper="sys").replace("import HELP", "import path"))
    point = EntryPoint(name="plugged", value="plugged_in:mine", group=PLUG_INS)
    monkeypatch.setattr(hashing, "entry_points", lambda group: EntryPoints([point]).select(group=group))
    assert set(hashing.outside_sources("plugged,capacity=3")["plugged_in"]) == {"plugged_in.py"}


NESTED = """
import one.part, two
class Mine:
    def late(self):
        if self: from three import it
        elif [self]: import four
        for each in self: pass
        else: import five
        try: import six
        except KeyError: import seven
        else: import eight
        finally: import nine
        match self:
            case 1: import ten
        with self: import eleven
        from . import one
"""


def test_modules_are_found_wherever_a_policy_imports_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
    (tmp_path / "imports_all.py").write_text(NESTED)
    for name in [*names, "unused"]:
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "part.py").write_text("import missing")
    found = {"imports_all.py", "one/part.py", *(f"{name}.py" for name in names)}
    assert set(sources_of("imports_all")) == found


def test_modules_are_found_below_a_thousand_branches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    branches = "".join(f"elif x == {number}:\n    pass\n" for number in range(2000))
    (tmp_path / "long.py").write_text(f"x = 0\nif x:\n    pass\n{branches}else:\n    import last\n")
    (tmp_path / "last.py").write_text("")
    assert set(sources_of("long")) == {"long.py", "last.py"}


def test_the_key_of_an_installed_policy_ignores_other_installed_packages() -> None:
    assert {path.partition("/")[0] for path in sources_of("simpy.core")} == {"simpy"}


def test_our_own_code_edited_while_python_runs_is_refused(copied_sources: Path) -> None:
    """Part of it would run as it was, under the key of what it is now."""
    copied = imported_anew(copied_sources)
    copied.sources_digest()
    with edited(copied_sources / "policies/evictors/recency.py"), pytest.raises(UserError) as refused:
        copied.sources_digest()
    assert str(refused.value) == (
        "policies/evictors/recency.py has been edited while Python runs, "
        "so results may mix old and new code; restart Python"
    )


def test_an_edited_policy_runs_as_it_is_now_and_not_as_it_was_imported(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a notebook would give the figures of the old code under the key of the new one."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "edited_module.py"
    text = POLICY.format(helper="sys").replace("import HELP", "import path")
    own = replace(scenario, policy="edited_module:mine")
    file.write_text(text)
    recency = simulate(own)
    file.write_text(text.replace("recency", "frequency").replace("LeastRecentlyUsed", "LeastFrequentlyUsed"))
    frequency = simulate(own)
    assert recency.content_hash != frequency.content_hash
    for result, policy in ((recency, "lru"), (frequency, "lfu")):
        assert result.iterations.equals(simulate(replace(scenario, policy=policy)).iterations)
    assert not recency.iterations.equals(frequency.iterations)


@pytest.fixture(scope="module")
def copied_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of our own code; whoever edits it puts it right again."""
    to = tmp_path_factory.mktemp("sources")
    for package in ("common", "policies", "traces", "sim"):
        shutil.copytree(ROOT / package, to / package, ignore=shutil.ignore_patterns("models", "__pycache__"))
    return to


@contextmanager
def edited(file: Path) -> Iterator[None]:
    before = file.read_text()
    file.write_text(before + "# edited\n")
    try:
        yield
    finally:
        file.write_text(before)


def imported_anew(folder: Path) -> Any:
    """The module of the copy as a new process has it, which reads the sources when it imports it."""
    spec = spec_from_file_location("copied_content_hash", folder / "sim" / "content_hash.py")
    assert spec is not None
    assert spec.loader is not None
    copied = module_from_spec(spec)
    spec.loader.exec_module(copied)
    assert folder == copied.ROOT
    return copied


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("policies/evictors/recency.py", True),
        ("policies/cache/device.py", True),
        ("sim/engine/links.py", True),
        ("sim/hardware/presets.py", True),
        ("sim/scenario.py", True),
        ("sim/results/summary.py", True),
        ("traces/analysis/expert_counts.py", True),
        ("sim/started_policy.py", True),
        ("traces/format/reader.py", True),
        ("sim/results/report.py", False),
        ("sim/cli/run.py", False),
        ("traces/capture/collection.py", False),
    ],
)
def test_an_edited_source_changes_the_key_if_it_can_change_a_figure(
    copied_sources: Path, file: str, counts: bool
) -> None:
    before = imported_anew(copied_sources).sources_digest()
    with edited(copied_sources / file):
        assert (imported_anew(copied_sources).sources_digest() != before) == counts


NOT_HASHED = {  # what a simulation imports and no figure depends on
    "common/__init__.py",
    "common/errors.py",
    "common/files.py",
    "common/hashing.py",
    "common/interruptions.py",
    "common/parquet.py",
    "common/progress.py",
    "common/tables.py",
    "common/toml_files.py",
    "sim/__init__.py",
    "sim/content_hash.py",
    "sim/results/__init__.py",
    "traces/__init__.py",
    "traces/analysis/__init__.py",
    "traces/published_models.py",  # its sizes are hashed by value
}
CLOSURE = """
import sys
from pathlib import Path
import sim.simulation, sim.results.bounds, sklearn.linear_model
from policies.naming import inside
from policies.registry import EVICTORS, NAMED
for place in (*NAMED.values(), *EVICTORS.values()):
    inside(place)
root = Path.cwd()
files = [Path(module.__file__) for module in list(sys.modules.values()) if getattr(module, "__file__", None)]
print(*sorted(str(file.relative_to(root)) for file in files if file.is_relative_to(root) and ".venv" not in file.parts))
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_all_that_a_simulation_imports_is_in_the_key() -> None:
    done = subprocess.run([sys.executable, "-c", CLOSURE], cwd=ROOT, capture_output=True, text=True, check=True)
    files, libraries = (set(line.split()) for line in done.stdout.splitlines())
    hashed = {path.relative_to(ROOT).as_posix() for path in hashing.source_files()}
    assert files - hashed == NOT_HASHED & files
    computing = {"numpy", "pandas", "pyarrow", "scipy", "simpy", "sklearn"}
    assert libraries & computing == {"sklearn" if name == "scikit-learn" else name for name in hashing.LIBRARIES}
