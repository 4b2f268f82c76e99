"""Seeded arithmetic and logic problems from reasoning-gym's generators.

The package's own `__init__` imports a dozen packages that these generators do not need. So the modules are imported one
by one, below empty packages that only have the path of the files.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from common.errors import UserError
from traces.pocket_training.extract import Document, dialogue

# Without gsm_symbolic, which follows templates that others published, whose terms we did not find to be permissive.
GENERATORS: tuple[str, ...] = (
    "algebra.simple_equations",
    "algorithmic.base_conversion",
    "algorithmic.number_filtering",
    "arithmetic.basic_arithmetic",
    "arithmetic.calendar_arithmetic",
    "arithmetic.chain_sum",
    "arithmetic.decimal_chain_sum",
    "arithmetic.fraction_simplification",
    "arithmetic.gcd",
    "arithmetic.lcm",
    "arithmetic.leg_counting",
    "arithmetic.products",
    "geometry.simple_geometry",
    "graphs.family_relationships",
    "logic.aiw",
)
PROBLEMS_EACH = 400
SEED = 7


def problems(folder: Path) -> Iterator[Document]:
    """`PROBLEMS_EACH` questions with answers from each generator, in turn; each is a separate group."""
    with _bare_packages(folder / "reasoning_gym"):
        try:
            for name in GENERATORS:
                importlib.import_module(f"reasoning_gym.{name}")
            create = importlib.import_module("reasoning_gym.factory").create_dataset
        except ImportError as error:
            raise UserError(f"{folder}/reasoning_gym cannot be used: {error}") from error
        datasets = [create(name.split(".")[1], size=PROBLEMS_EACH, seed=SEED) for name in GENERATORS]
        for at in range(PROBLEMS_EACH):
            for dataset in datasets:
                problem = dataset[at]
                question = problem["question"].strip()
                yield Document(question, dialogue(question, f"The answer is {problem['answer']}."))


@contextmanager
def _bare_packages(root: Path) -> Iterator[None]:
    """Make `reasoning_gym` and the generators' packages importable within this block, and remove them afterwards."""
    before = {name for name in sys.modules if name.split(".")[0] == "reasoning_gym"}
    if before:
        raise UserError("reasoning_gym is imported already; assemble the corpus in a separate process")
    try:
        for name in sorted({"", *(f".{generator.split('.')[0]}" for generator in GENERATORS)}):
            package = ModuleType(f"reasoning_gym{name}")
            package.__path__ = [str(root / name.lstrip("."))]
            sys.modules[package.__name__] = package
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "reasoning_gym"]:
            del sys.modules[name]
