"""What-ifs whose answer is known without simulating: closed forms and laws, on a small trace; and the command."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sim.__main__ import main
from sim.experiment import Experiment
from sim.inputs import resolve
from sim.planning import whatif as whatif_module
from sim.planning.resources import FACTORS, SPEEDS, Resource, resources_of, variations
from sim.planning.sensitivity import elasticity
from sim.planning.whatif import what_if
from sim.planning.whatif_figure import draw_what_if
from sim.planning.whatif_report import report
from sim.scenario import CacheSize, Scenario
from sim.simulation import simulate
from sim.sweeps.sweep import Sweep
from tests.support.sweep_runs import HERE
from tests.support.trace_helpers import content, small_shape, small_trace

TWELVE = CacheSize(experts=12)  # of 32
SLOWED = "host.memory_bytes_per_s=40e9,framework.layer_s=2e-5,framework.expert_s=1e-6"
TWICE = ",".join(f"scale.{name}=2" for name in ("link", "host", "compute", "cpu", "search"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whatif")


@pytest.fixture(scope="module")
def one_expert(folder: Path) -> Path:
    """A trace whose layers execute one expert for each token."""
    return small_trace(folder / "one.trace", 10, shape=small_shape(layers=4, experts=8, top_k=1))


@pytest.fixture(scope="module")
def sweep(one_expert: Path, folder: Path) -> Sweep:
    scenario = Scenario(one_expert, policy="lru", machine="rtx3090", cache=TWELVE, detail="requests")
    experiment = Experiment(scenario=scenario, grid={"policy": ["lru", "no-offload"]})
    return what_if(experiment, store=folder / "store", workers=HERE)


def rows(sweep: Sweep, policy: str, resource: str) -> dict[float, dict[str, Any]]:
    """The rows of a policy and a resource, by factor."""
    own = sweep.frame[(sweep.frame["resource"] == resource) & (sweep.frame["policy"] == policy)]
    return {row["factor"]: row for row in own.to_dict("records")}


def test_without_overlap_the_links_elasticity_is_the_share_of_copies(sweep: Sweep) -> None:
    """LRU on one GPU: of a layer's only expert, the copy is waited for whole, and takes 1 / factor of its time."""
    link = rows(sweep, "lru", "link")
    whole_s, waiting_s = link[1.0]["tpot_s_mean"], link[1.0]["decode_miss_wait_s"]
    assert 0.2 < waiting_s / whole_s < 0.8
    for factor in FACTORS:
        assert link[factor]["tpot_s_mean"] == pytest.approx(whole_s + waiting_s * (1 / factor - 1), rel=1e-9)
    assert link[1.0]["tpot_elasticity"] == pytest.approx(-waiting_s / whole_s, abs=0.003)
    computing = rows(sweep, "lru", "compute")[1.0]["tpot_elasticity"]
    assert computing == pytest.approx(waiting_s / whole_s - 1, abs=0.003)


def test_without_offloading_link_slots_and_search_change_nothing(sweep: Sweep) -> None:
    for resource in ("link", "slots", "search"):
        found = rows(sweep, "no-offload", resource)
        assert len({row["tpot_s_mean"] for row in found.values() if row["status"] == "done"}) == 1
        assert (found[1.0]["tpot_elasticity"], found[1.0]["ttft_elasticity"]) == (0, 0)


def test_twice_every_speed_halves_every_time(trace: Path) -> None:
    one, two = (
        simulate(Scenario(trace, policy="moe-infinity", machine=f"rtx3090x6,{SLOWED}{more}", cache=TWELVE)).summary
        for more in ("", f",{TWICE}")
    )
    times = [name for name, value in one.items() if "_s_" in f"{name}_" and value is not None]
    assert {name: two[name] for name in times} == {name: one[name] / 2 for name in times}


def test_the_elasticities_of_all_speeds_add_up_to_minus_one(one_expert: Path) -> None:
    scenario = Scenario(one_expert, policy="lru", machine=f"rtx3090,{SLOWED}", cache=TWELVE)
    found = {}
    for resource in resources_of(scenario, resolve(scenario)):
        times = {
            each.factor: simulate(replace(scenario, machine=each.point.get("machine", scenario.machine)))
            for each in variations(resource, scenario)
            if resource.name in SPEEDS and each.point is not None and each.factor in FACTORS[1:4]
        }
        found[resource.name] = elasticity({factor: run.summary["tpot_s_mean"] for factor, run in times.items()})
    assert sum(found[name] or 0 for name in SPEEDS) == pytest.approx(-1, abs=0.005)
    assert found["search"] == 0
    assert found["CPU time"] is not None
    assert found["CPU time"] < -0.01


def test_a_resource_that_the_machine_lacks_has_no_figures(sweep: Sweep) -> None:
    for resource, said in (("host memory", "not limited"), ("CPU time", "takes no time")):
        (row,) = rows(sweep, "lru", resource).values()
        assert (row["factor"], row["at_1x"], row["status"]) == (1, said, "done")
        assert row["tpot_elasticity"] != row["tpot_elasticity"]  # nan


def test_a_refused_factor_is_a_row_with_its_reason_and_gpus_vary_only_in_whole_numbers(sweep: Sweep) -> None:
    slots, gpus = rows(sweep, "lru", "slots"), rows(sweep, "lru", "GPUs")
    assert {factor: (row["count"], row["status"]) for factor, row in slots.items()} == {
        0.5: (6, "done"),
        0.75: (9, "done"),
        1.0: (12, "done"),
        1.4167: (17, "done"),
        2.0: (24, "done"),
        2.8333: (34, "refused"),
        4.0: (48, "refused"),
    }
    assert "must hold 1 to 32 for small on 1 GPU (top-1, one slot per GPU)" in slots[4.0]["reason"]
    assert {factor: row["status"] for factor, row in gpus.items()} == {1.0: "done", 2.0: "done", 4.0: "done"}


def test_more_gpus_share_the_slots_of_a_cache_that_fills_the_memory(
    one_expert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """960 dense and cached numbers and 12 experts of 192 bytes take 4224 bytes; two GPUs could hold all 32 experts."""
    monkeypatch.setattr(
        whatif_module,
        "resources_of",
        lambda *given: [each for each in resources_of(*given) if each.name in ("GPUs", "slots")],
    )
    machine, cache = "rtx3090,gpu.memory_bytes=4300", CacheSize(gb="max")
    scenario = Scenario(one_expert, policy="lru", machine=machine, cache=cache, requests=1, detail="requests")
    found = what_if(Experiment(scenario=scenario), store=tmp_path / "store", workers=HERE)
    assert {row["cache_experts"] for row in rows(found, "lru", "GPUs").values()} == {12}
    assert rows(found, "lru", "slots")[1.0]["at_1x"] == "12 of 32 experts"


def test_a_row_is_what_simulating_its_scenario_gives_and_1x_is_one_run(sweep: Sweep, one_expert: Path) -> None:
    for policy in ("lru", "no-offload"):
        row = rows(sweep, policy, "compute")[0.5]
        alone = Scenario(one_expert, policy=policy, machine="rtx3090,scale.compute=0.5", cache=TWELVE)
        assert simulate(alone).summary["tpot_s_mean"] == row["tpot_s_mean"]
        own = sweep.frame[(sweep.frame["policy"] == policy) & (sweep.frame["factor"] == 1.0)]
        assert (len(own), own["key"].nunique()) == (7, 1)


def test_the_amount_of_each_resource_is_shown(one_expert: Path) -> None:
    scenario = Scenario(one_expert, policy="lru", machine=f"rtx3090x6,{SLOWED}", cache=TWELVE)
    said = {each.name: each.at_1x for each in resources_of(scenario, resolve(scenario))}
    assert said["host memory"] == "40.00 GB/s"
    assert said["CPU time"] == "20.00 µs a layer + 1.00 µs an expert"
    assert said["slots"] == "12 of 32 experts"
    assert said["GPUs"] == "6"


def test_a_scaled_machine_is_scaled_further() -> None:
    scenario = Scenario("a.trace", machine="rtx3090,gpus=2,scale.link=0.5")
    link, gpus = Resource(name="link", at_1x=""), Resource(name="GPUs", at_1x="2", count=2)
    assert [each.point for each in variations(link, scenario)][4] == {"machine": "rtx3090,gpus=2,scale.link=1"}
    assert next(each.point for each in variations(gpus, scenario)) == {"machine": "rtx3090,gpus=1,scale.link=0.5"}


def test_without_decoding_report_and_picture_show_ttft(sweep: Sweep, tmp_path: Path) -> None:
    decoded = [name for name in sweep.frame if name.startswith(("tpot_s", "decode_"))]
    prefills = replace(sweep, frame=sweep.frame.assign(**dict.fromkeys(decoded)))
    said = report(prefills)
    assert "lru: TTFT, mean" in said
    assert "lru: TPOT, mean" not in said
    assert "largest part of a mean prefill" in said
    draw_what_if(prefills, tmp_path / "a.svg")
    assert "TTFT" in (tmp_path / "a.svg").read_text()


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenario(sweep: Sweep, one_expert: Path, folder: Path) -> Path:
    """A file of the scenario whose runs are in the store."""
    file = folder / "small.toml"
    file.write_text(
        f"[scenario]\ntrace = '{one_expert}'\nmachine = 'rtx3090'\ncache.experts = 12\npolicy = 'lru'\n"
        "detail = 'requests'\n"
    )
    return file


def whatif(folder: Path, *words: object) -> int:
    return main(["whatif", *map(str, words), "--jobs", "1", "--store", str(folder / "store")])


def test_a_table_a_picture_and_the_folder_of_a_sweep(
    sweep: Sweep, scenario: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [scenario, "--policy", "lru", "--policy", "no-offload"]
    assert whatif(folder, *words, "--out", tmp_path / "out", "--plot", tmp_path / "a.svg") == 0
    said, wrote, paths = capsys.readouterr().out.partition("wrote ")
    assert said == report(sweep) + "\n"
    assert wrote + paths == f"wrote {tmp_path / 'out'}\nwrote {tmp_path / 'a.svg'}\n"
    assert max(map(len, said.splitlines())) <= 100
    assert said.startswith("Simulated, not measured: one.trace (SYNTHETIC")
    for heading in ("Elasticity of TPOT at 1×", "lru: TPOT, mean", "lru: TTFT, mean", "no-offload: largest part"):
        assert heading in said
    assert "Refused before they ran" in said
    assert Sweep.read(tmp_path / "out") == sweep
    sweep.write(tmp_path / "again")
    assert content(tmp_path / "again") == content(tmp_path / "out")
    draw_what_if(sweep, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_json_has_a_row_per_resource_and_factor(
    scenario: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert whatif(folder, "--scenario", scenario, "--json") == 0
    frame = pd.DataFrame(json.loads(capsys.readouterr().out))
    assert set(frame["resource"]) == {*SPEEDS, "slots", "GPUs"}
    assert frame[frame["factor"] == 1]["tpot_s_mean"].nunique() == 1
    assert frame[frame["factor"] != 1]["tpot_elasticity"].isna().all()
    done = frame[frame["status"] == "done"]
    assert set(done["largest_part"]) <= {"compute", "overhead", "exchange", "copies", "search"}
    assert done["largest_share"].between(0.2, 1).all()


def test_a_scenario_file_may_replace_the_trace_but_only_once(
    scenario: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert whatif(folder, scenario, "--scenario", scenario) == 2
    assert capsys.readouterr().err == f"error: --scenario: is given twice: {scenario} and {scenario}\n"


def test_only_policies_may_vary_beside_the_resources(
    scenario: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "seeds.toml").write_text(scenario.read_text() + "[grid]\nseed = [0, 1]\n")
    assert whatif(folder, folder / "seeds.toml") == 2
    assert "error: axis seed: a comparison varies only the policy; " in capsys.readouterr().err
