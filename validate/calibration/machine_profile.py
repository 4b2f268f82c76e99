"""Measure this machine with a model, so that it can be simulated.

The model runs as in a replay, on random prompts. One run has every expert resident and times attention, experts and
what lies between. Another has the smallest cache and times copies on demand. Searches and copies of parts of an expert
are timed separately.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count, islice, repeat
from pathlib import Path

import numpy as np
import torch

from common.progress import bar
from policies.types import Copy
from sim.hardware.parts import Host
from sim.hardware.profile import Profile, Table
from sim.inputs import Inputs
from sim.scenario import CHUNK_BYTES, CacheSize, Scenario
from traces.capture.generation import TokenizedPrompt, generation_config
from traces.prompts.prompt import Prompt
from validate.calibration import fits
from validate.calibration.search_time import search_time
from validate.calibration.side_by_side import SideBySide, side_by_side
from validate.calibration.stopwatch import PassTimes, Stopwatch
from validate.measurement import measured_run
from validate.offload.arena import Arena
from validate.offload.offloaded_layer import contribution
from validate.testbed import Devices, Testbed, devices_as_machine, load_model, open_testbed
from validate.testbed_settings import CalibrationSettings, TestbedSettings

_NEW_TOKENS = 12
_REPEATS = 4
_MOST_CALLS, _LEAST_CALLS, _CALLS_S = 200, 6, 1.0  # of what is timed separately
_LEAST_COPY_BYTES = 1 << 16


def calibrate(chosen: TestbedSettings, settings: CalibrationSettings) -> Profile:
    """Measure this machine; its profile."""
    with open_testbed(chosen, load_model(chosen)) as testbed:
        return _profile(chosen, settings, testbed)


def _profile(chosen: TestbedSettings, settings: CalibrationSettings, testbed: Testbed) -> Profile:
    shape, machine = testbed.offloaded.shape, devices_as_machine(chosen)
    longest = min(settings.max_tokens, (testbed.loaded.context or settings.max_tokens) - _NEW_TOKENS)
    sizes = _powers(longest)
    once = [[size] for size in sizes]
    together = [[min(16, longest)] * rows for rows in _powers(settings.batch_size)[1:]] * _REPEATS
    _passes(testbed, "no-offload", shape.total_experts, once)  # warms up
    resident = _passes(testbed, "no-offload", shape.total_experts, [*once * _REPEATS, *together])
    on_demand = _passes(testbed, "lru", max(shape.top_k, machine.gpus), once)

    decoding = [times for one in resident if one.tokens == 1 for times in one.layers]
    expert_s, overhead_s = fits.expert_s(decoding), fits.overhead_s(decoding)
    dense, dense_s_per_attended = fits.dense(resident)
    copying = [times for one in on_demand if one.tokens == 1 for times in one.layers]
    moved = _moved(testbed)
    effects = _effects(testbed)
    latency_s = fits.copy_latency_s(copying, expert_s, overhead_s, moved.seconds[-1], effects.contention)
    searches = search_time(shape)
    return Profile(
        name=settings.name or machine.name,
        gpus=machine.gpus,
        model=shape,
        expert=_experts(testbed, sizes, expert_s),
        dense=dense,
        dense_s_per_attended=dense_s_per_attended,
        most_attended=max(longest * (longest + 1) // 2, settings.batch_size * (longest + _NEW_TOKENS)),
        head=fits.head(resident),
        driving_s=overhead_s,
        copy=Table(sizes=moved.sizes, seconds=tuple(latency_s + each for each in moved.seconds)),
        copy_latency_s=latency_s,
        host=_host(len(testbed.devices), effects.links_worth * moved.sizes[-1] / moved.seconds[-1]),
        contention=effects.contention,
        search_overhead_s=searches.overhead_s,
        search_bytes_per_s=searches.bytes_per_s,
        search_flops_per_s=searches.flops_per_s,
        measured=_circumstances(chosen, settings, testbed, moved)
        | {"slowest_over_fastest_repeat": fits.slowest_over_fastest(decoding, _REPEATS)},
    )


def summary(profile: Profile) -> str:
    """The main figures, for people."""
    shape, rate = profile.model, float(profile.measured["copy_bytes_per_s"])
    lines = [
        f"Measured on {profile.name} with {shape.name}: {shape.layers} layers of {shape.experts} experts, "
        f"{shape.expert_bytes / 1e6:.3g} MB each",
        f"copy of an expert      {profile.copy.seconds[-1] * 1e6:8.1f} µs, of which bytes "
        f"{shape.expert_bytes / rate * 1e6:.1f} µs ({rate / 1e9:.2f} GB/s)",
        f"contention             computing × {profile.contention.compute_slowdown:.2f} beside copies, copies × "
        f"{profile.contention.copy_slowdown:.2f} beside computing",
        f"expert, one token      {profile.expert.seconds[0] * 1e6:8.1f} µs",
        f"attention, one token   {profile.dense.seconds[0] * 1e6:8.1f} µs a layer, with router and shared experts",
        f"offloading overhead    {profile.driving_s * 1e6:8.1f} µs a layer",
        f"head and sampling      {profile.head.seconds[0] * 1e6:8.1f} µs an iteration",
        f"search                 {profile.search_overhead_s * 1e6:8.1f} µs + "
        f"{1e12 / profile.search_bytes_per_s:.1f} µs per MB of the store",
        f"repeats                {profile.measured['slowest_over_fastest_repeat']:8.2f} × as long in the slowest of "
        f"{_REPEATS} as in the fastest\n{'':23}if far from 1, something else ran: calibrate again",
    ]
    return "\n".join(lines)


def _passes(testbed: Testbed, policy: str, cache_experts: int, batches: Sequence[Sequence[int]]) -> list[PassTimes]:
    """Run batches of random prompts of these lengths under a policy; the times of all passes."""
    scenario = Scenario(Path("random tokens"), policy=policy, cache=CacheSize(experts=cache_experts))
    inputs = Inputs(model=testbed.offloaded.shape, machine=Devices("", len(testbed.devices)), requests=())
    config = generation_config(testbed.loaded, max_new_tokens=_NEW_TOKENS)
    config.eos_token_id = None  # so that every request runs to its last token
    passes: list[PassTimes] = []
    prompts = _random_prompts(batches, testbed.loaded.config.vocab_size)
    watched = partial(Stopwatch, passes=passes)
    with bar(policy, sum(map(len, prompts)), unit="prompt") as done:
        measured_run(scenario, inputs, testbed, prompts, config, driver_type=watched, done=done)
    return passes


def _experts(testbed: Testbed, sizes: Sequence[int], in_place_s: float) -> Table:
    """Seconds of one expert by tokens: its time alone, plus what one token took longer within a layer."""
    with torch.no_grad():
        alone = [_timed(_expert(testbed, size), repeat(None)) for size in sizes]
    return Table(sizes=tuple(sizes), seconds=tuple(each + max(0.0, in_place_s - alone[0]) for each in alone))


def _expert(testbed: Testbed, tokens: int) -> Callable[..., object]:
    """A function that computes an expert on so many tokens."""
    offloaded = testbed.offloaded
    experts, parameters = offloaded.blocks[0].experts, offloaded.records.views(0)
    states = torch.randn(tokens, offloaded.shape.hidden, dtype=next(iter(parameters.values())).dtype)
    weights = torch.ones(tokens, 1, dtype=states.dtype)
    return lambda *_: contribution(experts, states, None, weights, parameters)


def _effects(testbed: Testbed) -> SideBySide:
    """How much an expert on one token and copies of whole experts over all links slow each other down."""
    shape, devices = testbed.offloaded.shape, testbed.devices
    size = shape.expert_bytes
    arena = Arena(testbed.offloaded.records, slots=[2] * len(devices), devices=devices, chunk_bytes=[size])

    def copying(gpu: int) -> Callable[[], object]:
        copies = (Copy(gpu, number % shape.total_experts, 0, size, number % 2, -1, False) for number in count(gpu))
        return lambda: arena.move(next(copies))

    with torch.no_grad():
        return side_by_side(_expert(testbed, 1), [copying(gpu) for gpu in range(len(devices))])


def _host(links: int, bytes_per_s: float) -> Host:
    """The host whose memory all links share at this total rate; a single link shares nothing."""
    return Host(memory_bytes_per_s=bytes_per_s) if links > 1 else Host()


def _moved(testbed: Testbed) -> Table:
    """Seconds of copies of an expert and of parts of it, by bytes; each copy reads a record that was not just used."""
    records, shape = testbed.offloaded.records, testbed.offloaded.shape
    table = {}
    for chunk in copy_sizes(shape.expert_bytes):
        rest = shape.expert_bytes - chunk
        arena = Arena(records, slots=[2], devices=testbed.devices[:1], chunk_bytes=[chunk, rest] if rest else [chunk])
        copies = (Copy(0, number % shape.total_experts, 0, chunk, number % 2, -1, False) for number in count())
        table[chunk] = _timed(arena.move, copies)
    return Table(sizes=tuple(sorted(table)), seconds=tuple(table[size] for size in sorted(table)))


def copy_sizes(expert_bytes: int) -> list[int]:
    """Bytes of the copies to time: an expert, its half, its quarter, …, and the chunks of the default size.

    A demand may move any rest of an expert, and a run may use other chunks.
    """
    halvings = max(3, (expert_bytes // _LEAST_COPY_BYTES).bit_length() - 1)
    halves = {expert_bytes >> power for power in range(halvings + 1)}
    return sorted(halves | {min(CHUNK_BYTES, expert_bytes), expert_bytes % CHUNK_BYTES or CHUNK_BYTES})


def _timed(call: Callable[..., object], given: Iterable[object]) -> float:
    """Median seconds of calls, each with one of `given`; as many calls as fit into the time limit, at least five."""
    seconds: list[float] = []
    for one in islice(given, _MOST_CALLS):
        begun_s = time.perf_counter()
        call(one)
        seconds.append(time.perf_counter() - begun_s)
        if len(seconds) >= _LEAST_CALLS and sum(seconds) > _CALLS_S:
            break
    return statistics.median(seconds[1:])  # the first one warms up


def _circumstances(
    chosen: TestbedSettings, settings: CalibrationSettings, testbed: Testbed, moved: Table
) -> dict[str, str | int | float]:
    """The hardware, software and settings of the measurement."""
    return {
        "model": chosen.model,
        "device": chosen.device,
        "max_tokens": settings.max_tokens,
        "batch_size": settings.batch_size,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "dtype": testbed.loaded.dtype,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "copy_bytes_per_s": moved.sizes[-1] / moved.seconds[-1],
    }


def _random_prompts(batches: Sequence[Sequence[int]], vocabulary: int) -> list[list[TokenizedPrompt]]:
    """Prompts of these lengths, of random tokens."""
    rng = np.random.default_rng(0)
    answer: list[list[TokenizedPrompt]] = []
    for number, sizes in enumerate(batches):
        prompt = Prompt(text="", source="random tokens", line=number + 1)
        tokens = [rng.integers(vocabulary, size=size).tolist() for size in sizes]
        answer.append([TokenizedPrompt(number * 1000 + row, prompt, one) for row, one in enumerate(tokens)])
    return answer


def _powers(most: int) -> list[int]:
    """1, 2, 4, … and finally `most`."""
    sizes = [2**power for power in range(most.bit_length())]
    return sizes if sizes[-1] == most else [*sizes, most]
