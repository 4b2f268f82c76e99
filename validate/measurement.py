"""One run on real devices: a policy, an offloaded model and a cache size, over batches of prompts."""

import gc
import time
from collections.abc import Callable
from typing import Any

from policies.cache.expert_cache import ExpertCache
from policies.types import Copy, Rates
from sim.engine.recorder import Recorder
from sim.inputs import Inputs
from sim.scenario import Scenario
from sim.started_policy import Outcome, StartedPolicy
from traces.capture.generation import generate
from validate.driver.clock import Clock
from validate.driver.threaded_driver import Driver
from validate.offload.arena import Arena
from validate.offload.resident_model import Batches, Output, outputs_of
from validate.testbed import Testbed


def measured_run(
    scenario: Scenario,
    inputs: Inputs,
    testbed: Testbed,
    batches: Batches,
    config: Any,
    *,
    rates: Rates | None = None,
    driver_type: Callable[..., Driver] = Driver,
    done: Callable[[int], object] = lambda requests: None,
) -> tuple[Outcome, dict[int, Output]]:
    """Generate for all batches under the policy of the scenario; returns the run and the output of each request.

    The policy receives the `rates` of the machine, if known. The makespan is the time spent in generation. `done` is
    called with the number of requests that have ended.
    """
    started = StartedPolicy(scenario, inputs, rates)
    cache, recorder = started.cache, Recorder()
    outputs: dict[int, Output] = {}
    loaded, offloaded = testbed.loaded, testbed.offloaded
    chunk_bytes = cache.chunk_bytes[0]  # models that run here have one precision, so all layers are alike
    arena = Arena(offloaded.records, slots=started.slots, devices=testbed.devices, chunk_bytes=chunk_bytes)
    if started.policy.preloaded:
        _fill(arena, cache)
    makespan_s = 0.0
    gc.collect()
    driver = driver_type(
        hooks=started.hooks,
        cache=cache,
        move=arena.move,
        processors=[testbed.devices.index(device) for device in testbed.devices],
        recorder=recorder,
        clock=Clock(),
    )
    with driver, offloaded.run(driver, arena):
        for batch in batches:
            ids = [request.request for request in batch]
            offloaded.serve(ids, ends=config.eos_token_id or (), new_tokens=config.max_new_tokens)
            begun_s = time.perf_counter()
            generated = generate(loaded, batch, config, logits=True)
            makespan_s += time.perf_counter() - begun_s
            outputs |= outputs_of(batch, generated)
            done(len(batch))
    return started.outcome(recorder, makespan_s, simulated=False), outputs


def _fill(arena: Arena, cache: ExpertCache) -> None:
    """Copy every expert into the slot that the cache has for it."""
    for number, (gpu, slot) in enumerate(zip(cache.home, cache.residency.slot, strict=True)):
        for chunk, size in enumerate(cache.chunk_bytes[number // cache.model.experts]):
            arena.move(Copy(gpu, number, chunk, size, slot, victim=-1, demanded=False))
