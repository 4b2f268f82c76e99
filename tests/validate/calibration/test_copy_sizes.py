"""Which copies a calibration times."""

import pytest

from sim.scenario import CHUNK_BYTES
from validate.calibration.machine_profile import copy_sizes


@pytest.mark.parametrize("expert_bytes", [192, 13_824, 17_301_504, 49_766_400, 157_286_400, 352_321_536])
def test_a_profile_measures_all_copies_that_a_run_has_by_default(expert_bytes: int) -> None:
    sizes = copy_sizes(expert_bytes)
    chunks = range(0, expert_bytes, CHUNK_BYTES)
    needed = {expert_bytes - start for start in chunks} | {min(CHUNK_BYTES, expert_bytes)}
    assert all(sizes[0] <= each <= sizes[-1] for each in needed)
    assert sizes == sorted(set(sizes))
    assert {expert_bytes, expert_bytes // 2, min(CHUNK_BYTES, expert_bytes)} <= set(sizes)
