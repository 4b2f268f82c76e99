"""Imports go one way, policies ← traces ← sim ← validate, and who only simulates needs no torch."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("policies", "traces", "sim", "validate")
HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "accelerate", "datasets"}
COLLECTOR = {
    f"traces/{name}.py"
    for name in (
        "capture",
        "collect",
        "generation",
        "hf_model",
        "hf_shape",
        "hub_prompts",
        "prompt_tokens",
        "sampling",
        "scores",
        "sglang_records",
    )
}
LIGHT_VALIDATE = {f"validate/{name}.py" for name in ("__init__", "__main__", "clock", "compare", "driver", "timelines")}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    """The file as it is called here: `sim/run.py`."""
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                package = path.relative_to(ROOT).parent.parts
                inside = ".".join(package[: len(package) - node.level + 1])
                yield node.lineno, f"{inside}.{node.module or ''}".rstrip(".")
            else:
                yield node.lineno, node.module or ""


def breaches(package: str, allowed: set[str]) -> list[str]:
    """Imports of a package beyond the standard library and what is allowed."""
    known = allowed | sys.stdlib_module_names
    return [
        f"{name_of(path)}:{line} imports {name}"
        for path in files(package)
        for line, name in imports(path)
        if name.partition(".")[0] not in known
    ]


def needs_torch(path: Path) -> bool:
    return name_of(path) in COLLECTOR or name_of(path).startswith("traces/pocket/")


def light_files() -> list[Path]:
    light = [path for package in ("policies", "traces", "sim") for path in files(package) if not needs_torch(path)]
    return light + [path for path in files("validate") if name_of(path) in LIGHT_VALIDATE]


def light_modules() -> list[str]:
    return [module_of(path) for path in light_files()]


def test_policies_import_numpy_and_scikit_learn_only() -> None:
    assert breaches("policies", {"policies", "numpy", "sklearn"}) == []


@pytest.mark.parametrize(
    ("package", "above"), [("policies", ("traces", "sim", "validate")), ("traces", ("sim", "validate"))]
)
def test_nothing_is_imported_from_above(package: str, above: tuple[str, ...]) -> None:
    found = [name for path in files(package) for _, name in imports(path) if name.partition(".")[0] in above]
    assert found == []


def test_the_simulator_does_not_import_the_validator() -> None:
    found = [name_of(path) for path in files("sim") for _, name in imports(path) if name.startswith("validate")]
    assert found == []


def test_torch_and_its_kin_are_imported_by_the_collector_the_pocket_model_and_the_runtime_only() -> None:
    found = [
        f"{name_of(path)}:{line} imports {name}"
        for path in light_files()
        for line, name in imports(path)
        if name.partition(".")[0] in HEAVY
    ]
    assert found == []


def test_the_modules_of_collector_and_driver_are_all_there() -> None:
    """So that a renamed one does not leave an exception, or escape the rule."""
    assert {name_of(path) for path in files("traces")} >= COLLECTOR
    assert {name_of(path) for path in files("validate")} >= LIGHT_VALIDATE


def test_nothing_imports_the_tests_or_the_benchmarks() -> None:
    own = {path.stem for path in (ROOT / "tests").glob("*.py")} | {"tests", "benchmarks", "pytest", "hypothesis"}
    found = [
        f"{name_of(path)}:{line} imports {name}"
        for package in PACKAGES
        for path in files(package)
        for line, name in imports(path)
        if name.partition(".")[0] in own
    ]
    assert found == []


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HEAVY_NOW = f"import sys; print(sorted({HEAVY!r} & sys.modules.keys()))"


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed, so nothing can load it")
@pytest.mark.parametrize("module", ["sim.run", "traces.reader", "traces.convert"])
def test_simulating_reading_and_converting_load_no_torch(module: str) -> None:
    assert fresh(f"import {module}; {HEAVY_NOW}") == "[]"


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed, so nothing can load it")
def test_no_module_outside_the_collector_the_pocket_model_and_the_runtime_loads_torch() -> None:
    light = light_modules()
    assert {"sim.run", "sim.simulation", "policies.finemoe", "traces.writer", "validate.driver"} <= set(light)
    assert fresh(f"import {', '.join(light)}; {HEAVY_NOW}") == "[]"


def test_without_torch_all_but_the_collector_the_pocket_model_and_the_runtime_can_be_imported() -> None:
    light = light_modules()
    hidden = "import sys; sys.modules.update({name: None for name in " + repr(HEAVY) + "})"
    assert fresh(f"{hidden}; import {', '.join(light)}; print('done')") == "done"


def test_importing_prints_nothing_and_reads_no_arguments() -> None:
    assert fresh("import sys; sys.argv = None; import sim.run, sim.__main__, traces.__main__, policies.base") == ""
