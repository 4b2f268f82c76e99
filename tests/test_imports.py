"""Imports go one way, `common` ← `policies` ← `traces` ← `sim` ← `validate`, and inside each package from wing to wing.

The rules are those of `docs/architecture.md`, by folder; `sim/paper` has wings of its own. A file that lies directly in
a package is named by itself.
"""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("common", "policies", "traces", "sim", "validate")
TORCH = {"torch", "transformers", "tokenizers", "safetensors", "accelerate"}
HUB = {"datasets", "huggingface_hub"}

# The wings of each package from the lowest to the highest: a wing imports from those before it, and its own.
WINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "policies": (
        ("types", "naming", "policy_settings"),
        ("base", "executed"),
        ("hooks", "validity"),
        ("registry", "cache", "prediction"),
        ("checked_policy",),
        ("catalogue", "evictors"),
        ("systems",),
    ),
    "traces": (
        ("published_models", "format", "prompts"),
        ("pocket", "workloads", "analysis"),
        ("capture", "convert", "synthetic"),
        ("pocket_training", "cli"),
        ("__main__",),
    ),
    "sim": (
        ("artefacts", "hardware", "system_colours"),
        ("decoded_trace", "engine", "labels", "trace_naturalness"),
        ("scenario",),
        ("axes", "inputs"),
        ("experiment",),
        ("started_policy", "content_hash", "forecast"),
        ("learned_state", "results", "shared_predictions"),
        ("simulation", "scenario_options", "store", "store_options"),
        ("sweeps",),
        ("planning", "ranking", "anchors", "paper"),
        ("cli",),
        ("__main__",),
    ),
    "sim.paper": (
        ("analyses", "case", "footings", "tiers"),
        ("study_traces",),
        ("paper_systems", "study"),
        ("claims",),
        ("figures",),
        ("testbed",),
        ("catalogue_of_figures", "verdicts", "written_paper"),
        ("reproduction",),
    ),
    "validate": (
        ("driver", "testbed_settings"),
        ("offload",),
        ("testbed",),
        ("measurement",),
        ("replay", "calibration", "comparison"),
        ("rates",),
        ("cli",),
        ("__main__",),
    ),
}

# Where torch and its kin may be imported, and what of `validate` runs without them.
WITH_TORCH = ("traces/capture/", "traces/pocket/", "traces/pocket_training/", "validate/")
WITH_HUB = ("traces/capture/", "traces/prompts/hub_prompts.py")
TORCH_DUMPS = "traces/convert/sglang_records.py"  # SGLang's recorder saves its counts with torch
LIGHT = ("validate/driver/", "validate/comparison/", "validate/cli/", "validate/testbed_settings.py", "validate/__")


def files(package: str) -> list[Path]:
    return sorted(ROOT.joinpath(*package.split(".")).rglob("*.py"))


def name_of(path: Path) -> str:
    """The file as it is called here: `sim/cli/run.py`."""
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(path: Path) -> list[tuple[int, str]]:
    """Line and absolute name of every module that a file imports, at its top or inside a function."""
    return list(_imports(path))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are absolute"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def top(module: str) -> str:
    return module.partition(".")[0]


def wing_of(module: str, package: str) -> str | None:
    """`engine` of `sim.engine.links` in `sim`; `__init__` for the package itself; None for a module of another one."""
    if module == package:
        return "__init__"
    return module.removeprefix(f"{package}.").partition(".")[0] if module.startswith(f"{package}.") else None


def offences(package: str, wrong: Callable[[Path, str], bool]) -> list[str]:
    return [
        f"{name_of(path)}:{line} imports {name}"
        for path in files(package)
        for line, name in imports(path)
        if wrong(path, name)
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_imported_from_a_package_above(package: str) -> None:
    above = PACKAGES[PACKAGES.index(package) + 1 :]
    assert offences(package, lambda path, name: top(name) in above) == []


def test_common_imports_no_other_package() -> None:
    assert offences("common", lambda path, name: top(name) in PACKAGES and top(name) != "common") == []


@pytest.mark.parametrize("package", WINGS)
def test_wings_import_from_lower_wings_only(package: str) -> None:
    rank = {wing: place for place, wings in enumerate(WINGS[package]) for wing in wings}

    def wrong(path: Path, name: str) -> bool:
        own, other = wing_of(module_of(path), package), wing_of(name, package)
        if own == "__init__" or other is None:
            return False
        return other != own and rank[other] >= rank[own]

    assert offences(package, wrong) == []


@pytest.mark.parametrize("package", WINGS)
def test_every_wing_has_its_place_in_the_order(package: str) -> None:
    there = {wing_of(module_of(path), package) for path in files(package)} - {"__init__"}
    assert there == {wing for wings in WINGS[package] for wing in wings}


def test_commands_are_nobodys_library() -> None:
    def wrong(path: Path, name: str) -> bool:
        return ".cli." in f"{name}." and path.name != "__main__.py"

    assert [each for package in PACKAGES for each in offences(package, wrong)] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {module_of(path): path for package in PACKAGES for path in files(package)}
    graph = {
        module: {known for _, name in imports(path) if (known := _known(name, modules)) and known != module}
        for module, path in modules.items()
    }
    done: set[str] = set()
    while ready := [module for module in graph if module not in done and graph[module] <= done]:
        done.update(ready)
    assert sorted(graph.keys() - done) == []


def _known(name: str, modules: dict[str, Path]) -> str | None:
    """The module that `from MODULE import NAME` loads."""
    if name in modules:
        return name
    module = name.rpartition(".")[0]
    return module if module in modules else None


def test_no_two_modules_share_a_name() -> None:
    """A command's file may be called as what it is about."""
    stems = [path.stem for package in PACKAGES for path in files(package) if path.parent.name != "cli"]
    named = [stem for stem in stems if not stem.startswith("__")]
    assert sorted({stem for stem in named if named.count(stem) > 1}) == []


def test_policies_import_numpy_and_scikit_learn_only() -> None:
    known = {"policies", "common", "numpy", "sklearn", "typing_extensions"} | sys.stdlib_module_names
    assert offences("policies", lambda path, name: top(name) not in known) == []
    used = {name.split(".")[1] for path in files("policies") for _, name in imports(path) if top(name) == "common"}
    assert used == {"errors"}


def test_torch_and_the_hub_are_imported_where_models_run_only() -> None:
    def wrong(path: Path, name: str) -> bool:
        place = name_of(path)
        torch = top(name) in TORCH and not place.startswith(WITH_TORCH) and place != TORCH_DUMPS
        return torch or (top(name) in HUB and not place.startswith(WITH_HUB))

    assert [offence for package in PACKAGES for offence in offences(package, wrong)] == []


def test_nothing_imports_the_tests_or_the_benchmarks() -> None:
    own = {"tests", "benchmarks", "pytest", "hypothesis"}
    assert [each for package in PACKAGES for each in offences(package, lambda path, name: top(name) in own)] == []


def light_modules() -> list[str]:
    """Modules that must be importable where torch is not installed."""
    return [
        module_of(path)
        for package in PACKAGES
        for path in files(package)
        if (not name_of(path).startswith(WITH_TORCH) or name_of(path).startswith(LIGHT))
        and name_of(path) not in (TORCH_DUMPS, "traces/prompts/hub_prompts.py")
    ]


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded(code: str, modules: set[str]) -> str:
    return fresh(f"{code}; import sys; print(sorted({modules!r} & sys.modules.keys()))")


needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed, so nothing can load it"
)


@needs_torch
def test_no_module_that_needs_no_torch_loads_it() -> None:
    light = light_modules()
    assert {"sim.simulation", "policies.systems.finemoe", "traces.format.writer", "traces.cli.collect"} <= set(light)
    assert {"validate.driver.threaded_driver", "validate.comparison.timelines"} <= set(light)
    assert loaded(f"import {', '.join(light)}", TORCH | HUB) == "[]"


def test_without_torch_all_that_needs_none_can_be_imported() -> None:
    hidden = "import sys; sys.modules.update({name: None for name in " + repr(TORCH | HUB) + "})"
    assert fresh(f"{hidden}; import {', '.join(light_modules())}; print('done')") == "done"


def test_importing_prints_nothing_and_reads_no_arguments() -> None:
    assert fresh("import sys; sys.argv = None; import sim.__main__, traces.__main__, validate.__main__") == ""
