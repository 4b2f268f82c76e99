"""Sweeps on a Ray cluster of this host, run as a user runs them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path

import pytest

from sim.store.result_store import ResultStore
from sim.store.run_journal import JournalLine, RunJournal

ROOT = Path(__file__).parents[2]
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'finemoe-lab[ray]'")
SLOW_POLICY = """
import os
import time
from pathlib import Path

from policies.base import Policy, Prefetcher
from policies.evictors.recency import LeastRecentlyUsed


class Slow(LeastRecentlyUsed):
    def start(self, setup):
        super().start(setup)
        time.sleep(float(os.environ.get("SLOW_S", "0")))
        meeting, until = Path("meeting"), time.monotonic() + 30
        if meeting.exists():
            (meeting / str(os.getpid())).touch()
            while len(list(meeting.iterdir())) < 2 and time.monotonic() < until:
                time.sleep(0.02)


def policy():
    return Policy(prefetcher=Prefetcher(), evictor=Slow())
"""
"""A module from outside, which workers import from the folder in which the sweep was started.

A run takes $SLOW_S; where there is a folder `meeting`, it also waits until another process is in the middle of a run.
"""

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # no file with a token in the home folder
}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # nodes listen to 127.0.0.1 only


@dataclass(frozen=True, slots=True)
class TwoNodes:
    """A running cluster of two nodes, a processor each."""

    address: str
    raylets: tuple[int, int]
    """Processes; the first node is the head."""

    def kill_second(self) -> set[int]:
        """End the second node and its workers at once, as a power failure does; the answer is who its workers were."""
        workers = children_of(self.raylets[1])
        for process in (self.raylets[1], *workers):
            os.kill(process, signal.SIGKILL)
        return workers


@contextmanager
def two_nodes(*, slow_s: float = 0.0, within: Sequence[str] = ()) -> Iterator[TwoNodes]:
    """A cluster where each run of `SLOW_POLICY` takes so long; `within` is a command that starts another."""
    folder = tempfile.mkdtemp(prefix="raylets-")  # names of sockets have to be short
    command = [*within, sys.executable, "-m", "tests.support.two_raylets", folder]
    environment = {**ENVIRONMENT, **LOOPBACK, "SLOW_S": str(slow_s)}
    with (
        Path(folder, "errors.txt").open("wb") as errors,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, Path(folder, "errors.txt").read_text()
            said = json.loads(line)
            yield TwoNodes(said["address"], tuple(said["raylets"]))
        finally:
            process.stdin.close()
            process.wait(60)
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """A folder with a trace, a policy and `experiment.toml`, in which a sweep is started."""

    path: Path

    @classmethod
    def made(cls, path: Path, trace: Path, *, policies: Sequence[str], seeds: int, trace_at: str = "") -> "SweepFolder":
        path.mkdir(parents=True, exist_ok=True)
        (path / "slowly.py").write_text(SLOW_POLICY)
        place = Path(trace_at) if trace_at else path / "small.trace"
        if not place.exists():
            shutil.copytree(trace, place)
        (path / "experiment.toml").write_text(
            f'[scenario]\ntrace = "{trace_at or "small.trace"}"\nmachine = "rtx3090"\ncache.share = 0.5\n'
            f"[grid]\npolicy = {json.dumps(list(policies))}\nseed = {list(range(seeds))}\n"
        )
        return cls(path)

    def start(self, *options: str, address: str | None = None, slow_s: float = 0.0) -> "subprocess.Popen[str]":
        """The command, with Ray on the cluster at this address if there is one."""
        command = [sys.executable, "-m", "sim", "sweep", "experiment.toml", "--references", "none", *options]
        environment = {**ENVIRONMENT, "SLOW_S": str(slow_s)}
        environment.pop("RAY_ADDRESS", None)
        if address:
            command += ["--backend", "ray"]
            environment |= {**LOOPBACK, "RAY_ADDRESS": address}
        return subprocess.Popen(
            command, cwd=self.path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *options: str, address: str | None = None) -> tuple[int, str, str]:
        """Exit status, stdout and stderr of the command."""
        process = self.start(*options, address=address)
        out, errors = process.communicate(timeout=120)
        return process.returncode, out, errors

    def lines(self, store: str) -> list[JournalLine]:
        """What the journal of a store says."""
        return list(RunJournal(ResultStore.open(self.path / store, create=False)).lines())

    def counts(self, store: str) -> dict[str, Counter[str]]:
        """How often each run was started, and how often it was finished, by key."""
        found: dict[str, Counter[str]] = {"started": Counter(), "finished": Counter(), "failed": Counter()}
        for line in self.lines(store):
            found[line.event][line.key] += 1
        return found

    def waits_until(self, store: str, enough: Callable[[list[JournalLine]], bool]) -> None:
        """Wait until the journal has what it takes, a minute at most."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if (self.path / store / "store.json").exists() and enough(self.lines(store)):
                return
            time.sleep(0.02)
        raise TimeoutError("the sweep does not get on")

    def stored(self, store: str) -> list[str]:
        """The keys of the runs whose results are in the store."""
        return [path.parent.name for path in Path(self.path, store, "runs").glob("**/meta.json")]

    def bytes_of(self, store: str, table: str) -> dict[str, bytes]:
        """Every file of the runs in a store, and the table of the sweep."""
        runs = self.path / store / "runs"
        found = {str(path.relative_to(runs)): path.read_bytes() for path in runs.rglob("*") if path.is_file()}
        return {**found, "sweep.parquet": (self.path / table / "sweep.parquet").read_bytes()}


def children_of(process: int) -> set[int]:
    """The processes that one has started."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == process:
            found.add(int(status.parent.name))
    return found


def descendants_of(process: int) -> set[int]:
    """The processes that one has started, and those that they have."""
    children = children_of(process)
    return children.union(*map(descendants_of, children))


def listening_addresses(processes: set[int]) -> set[str]:
    """The addresses at which these processes wait for connections."""
    sockets = set()
    for process in processes:
        with suppress(OSError):  # it may have ended
            sockets |= {str(file.readlink()) for file in Path(f"/proc/{process}/fd").iterdir()}
    found = set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = row.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                words = bytes.fromhex(local.partition(":")[0])  # of four bytes each, the lowest first
                address = ip_address(b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4)))
                found.add(str(getattr(address, "ipv4_mapped", None) or address))
    return found
