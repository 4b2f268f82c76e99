"""The key of a simulation's result: equal keys mean equal figures.

The key covers the scenario without the fields that do not affect figures (`detail`, `check`, `label`), the digests of
its inputs, the sources of all code that decides or computes, and the versions of the libraries that compute. So an
edited policy never gets an outdated result, and a store shared by machines never mixes results of different library
versions.
"""

import os
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.hashing import sha256_of, sha256_of_json
from common.settings import to_data
from policies.naming import parts_of, sources_of
from policies.registry import PLUG_INS, is_own
from sim.inputs import Inputs
from sim.scenario import NO_EFFECT, Scenario

version = cache(metadata.version)  # reading it takes longer than the rest of a key

# Hashed by contents (digests, the requests of the split, slots), not by name.
BY_DIGEST = ("trace", "history", "train_split", "requests", "counts", "machine", "sizes", "cache")
ROOT = Path(__file__).parents[1]
LIBRARIES = ("numpy", "pandas", "pyarrow", "scikit-learn", "scipy", "simpy")
SOURCES = (
    "common/settings.py",
    "common/threads.py",
    "policies",
    "sim/artefacts.py",
    "sim/decoded_trace.py",
    "traces/analysis/expert_counts.py",
    "traces/analysis/iterations.py",
    "traces/analysis/naturalness.py",
    "traces/analysis/nearest_map.py",
    "traces/analysis/similarity.py",
    "sim/engine",
    "sim/hardware",
    "sim/inputs.py",
    "sim/learned_state.py",
    "sim/results/bounds.py",
    "sim/results/event_table.py",
    "sim/results/result.py",
    "sim/results/summary.py",
    "sim/results/working_set.py",
    "sim/scenario.py",
    "sim/shared_predictions.py",
    "sim/started_policy.py",
    "sim/simulation.py",
    "sim/trace_naturalness.py",
    "traces/format",
)


def content_hash(scenario: Scenario, inputs: Inputs) -> str | None:
    """The SHA-256, in hexadecimal, of a scenario, its inputs and the code that runs it.

    None for a policy that a script or notebook defines itself (`__main__:mine`), whose code is not in any module file.
    """
    return RunKeys().of(scenario, inputs)


class RunKeys:
    """Computes the keys of many runs; the code is read once."""

    def __init__(self) -> None:
        self.code = code_facts()
        self._outside: dict[str, dict[str, dict[str, str]]] = {}

    def of(self, scenario: Scenario, inputs: Inputs) -> str | None:
        """As `content_hash`."""
        facts = self.facts(scenario, inputs)
        return None if facts is None else key_of(facts)

    def facts(self, scenario: Scenario, inputs: Inputs) -> dict[str, Any] | None:
        """The hashed facts of a run, as plain data; None as for `of`."""
        if not has_sources(scenario.policy):
            return None
        facts = self._facts(scenario, inputs)
        return facts | {"policy": scenario.policy, "outside": self.outside(scenario.policy), "of": "run"}

    def bound_facts(self, scenario: Scenario, inputs: Inputs) -> dict[str, Any]:
        """The hashed facts of the lower bound of the makespan, which is the same for every policy."""
        return self._facts(scenario, inputs) | {"of": "lower bound"}

    def _facts(self, scenario: Scenario, inputs: Inputs) -> dict[str, Any]:
        left_out = (*NO_EFFECT, *BY_DIGEST, "policy")
        found = inputs.provenance(scenario)
        return {
            "settings": {name: value for name, value in to_data(scenario).items() if name not in left_out},
            **inputs.routing_identity,
            "counts": found["counts_sha256"],
            "machine": found["machine"]["digest"],
            "model": found["model"],
            "slots": found["cache_experts"],
            "code": self.code,
        }

    def outside(self, policy: str) -> dict[str, dict[str, str]]:
        """As `outside_sources`."""
        if policy not in self._outside:
            self._outside[policy] = outside_sources(policy)
        return self._outside[policy]


def key_of(facts: dict[str, Any]) -> str:
    """The key for facts from `RunKeys.facts`."""
    return sha256_of_json(facts)


def code_facts() -> dict[str, str]:
    """The digest of our own code, and the versions of Python and the libraries that it computes with."""
    libraries = {name: version(name) for name in LIBRARIES}
    return {"sources": sources_digest(), "python": f"{sys.version_info[0]}.{sys.version_info[1]}", **libraries}


def sources_digest() -> str:
    """The hash of the project's own code that can change a figure.

    Raises a `UserError` if a file has been edited since this module was imported, because loaded code may be older.
    """
    first, now = _AT_IMPORT, _sources()
    for name in sorted(first.keys() | now.keys()):
        if first.get(name) != now.get(name):
            raise UserError(
                f"{name} has been edited while Python runs, so results may mix old and new code; restart Python"
            )
    return sha256_of_json(now)


def source_files() -> list[Path]:
    """The files of our own code that can change a figure."""
    return [path for each in SOURCES for path in _files(ROOT / each)]


def _sources() -> dict[str, str]:
    found = {path: path.stat() for path in source_files()}
    return {path.relative_to(ROOT).as_posix(): _digest(path, *_version(at)) for path, at in found.items()}


def _version(at: os.stat_result) -> tuple[int, int, int]:
    return at.st_mtime_ns, at.st_size, at.st_ino


@cache
def _digest(path: Path, *_: int) -> str:
    """The hash of a file in one version: a sweep asks for hundreds of keys, and reads each file once."""
    return sha256_of(path)


def has_sources(policy: str) -> bool:
    """Whether all code of a policy is in module files; False if a script or notebook defines it."""
    return "__main__" not in _outside_modules(policy)


def outside_sources(policy: str) -> dict[str, dict[str, str]]:
    """The hashes of the sources of every outside module that a policy names, including its whole package."""
    return {module: sources_of(module) for module in sorted(_outside_modules(policy))}


def _outside_modules(policy: str) -> Iterator[str]:
    for part in parts_of(policy):
        name = part.partition(",")[0]
        if ":" in name:
            yield name.partition(":")[0]
        elif not is_own(part):
            plug_ins = entry_points(group=PLUG_INS)  # takes as long as the rest of a key
            if name in plug_ins.names:
                yield plug_ins[name].module


def _files(place: Path) -> list[Path]:
    return sorted(place.rglob("*.py")) if place.is_dir() else [place]


_AT_IMPORT = _sources()  # at import, because other modules' loaded code is as old as that
