"""`python -m validate replay`: run a model with its experts really offloaded, and measure it.

First the resident model runs all prompts: it gives the routing that policies learn from, and the outputs that every
replay must equal. Then its experts move to a record file, and each policy serves the prompts that it has not seen.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from common.errors import UserError
from policies.cache.placement import check_replicas, split_slots
from sim.cli.run import add_run_arguments, divided, report, setting_of
from sim.hardware.machines import Devices
from sim.results import summary
from sim.simulate import Run, needed_columns
from traces.capture.collection import CollectSettings, check_lookahead, check_target
from traces.capture.generation import generation_config
from traces.capture.model_loading import LoadedModel, load
from traces.capture.model_structure import moe_blocks, shape_of
from traces.capture.prompt_tokens import tokenized
from traces.cli.collect import MODEL_HELP, add_length_arguments, distances
from traces.cli.prompts import add_choice_arguments, read_chosen
from traces.format.reader import RecordedFuture, Requests
from traces.pocket import DEMO_PROMPTS
from traces.pocket.recipe import RECIPES
from validate.measure import Testbed, measure
from validate.offload.arena import devices_of
from validate.offload.offloaded_model import offload
from validate.offload.records import layout_of
from validate.offload.resident_model import hold_equal, resident_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--prompts",
        metavar="NAME_OR_FILE",
        help="built-in, lmsys-chat-1m, a file … (see `traces prompts`); the models of this project have theirs",
    )
    add_choice_arguments(parser)
    add_length_arguments(parser, new_tokens=48)
    parser.add_argument(
        "--lookahead",
        type=distances,
        default=(),
        metavar="D,D",
        help="also apply router l+D to what router l sees, for policies that speculate by it",
    )
    add_device_arguments(parser)
    parser.add_argument(
        "--record", type=Path, metavar="NAME.trace", help="keep the routing as a trace, for `sim run` to simulate"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a trace of that name")
    add_run_arguments(parser)


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which devices a real run takes, and how the model is loaded."""
    parser.add_argument("--device", default="cpu", metavar="NAME", help="kind of device (default: %(default)s)")
    parser.add_argument(
        "--devices", type=int, default=1, metavar="G", help="how many of them, each with a link of its own (default: 1)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: torch's choice)")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a repository of the hub")


def run(args: argparse.Namespace) -> None:
    """Replay, print the table or the JSON, write the results."""
    if args.out:
        summary.refuse_existing(args.out)
    with tempfile.TemporaryDirectory(prefix="finemoe-") as scratch:
        replay(args, Path(scratch))


def replay(args: argparse.Namespace, scratch: Path) -> None:
    """The command; `scratch` is a folder for the records, and for a trace that is not to be kept."""
    settings = _settings(args, scratch)
    loaded = load_for_devices(args)
    devices = devices_of(args.device, args.devices)
    layout_of(moe_blocks(loaded.model))  # what cannot be offloaded says so before anything has been run
    requests = tokenized(
        settings.prompts.prompts,
        loaded,
        max_new_tokens=settings.max_new_tokens,
        where=settings.prompts.where,
        chat_template=settings.chat_template,
        prompt_tokens=settings.prompt_tokens,
    )
    setting = setting_of(args, shape_of(loaded.model, name=loaded.name), Devices(device_name(args), args.devices))
    split_slots(setting.model, setting.cache_experts, args.devices)
    check_replicas(setting.replicas, args.devices)
    check_lookahead(settings.lookahead, loaded)
    needed_columns(args.policy, embedding=True, lookahead=settings.lookahead, where="a replay without --lookahead")
    train, test = divided(
        range(len(requests)), args.train_split, args.seed, args.requests, where=settings.prompts.where
    )
    beyond = sorted({*range(len(requests))} - {*train, *test})  # recorded too, so that the trace divides likewise
    history, batches, others = (
        [[requests[number] for number in some] for some in _cut(ids, args.batch_size)] for ids in (train, test, beyond)
    )

    config = generation_config(loaded, max_new_tokens=settings.max_new_tokens, exactly=settings.exactly)
    with _bar("resident model", len(requests)) as bar:
        trace, expected = resident_run(loaded, [*history, *batches, *others], config, settings, done=bar.update)
    testbed = Testbed(loaded, offload(loaded, scratch / "experts.records", lookahead=settings.lookahead), devices)
    runs: dict[str, Run] = {}
    for policy in dict.fromkeys([summary.RESIDENT, summary.BEST, *args.policy]):
        with _bar(policy, len(test)) as bar:
            runs[policy], outputs = measure(
                policy,
                setting,
                testbed,
                batches,
                config,
                history=Requests(trace, train),
                future=RecordedFuture(trace, test),
                done=bar.update,
            )
        hold_equal(policy, expected, outputs)
    bounds = summary.Bounds(resident=runs[summary.RESIDENT], clairvoyant=runs[summary.BEST], makespan_s=None)
    report(args, trace, setting, [runs[policy] for policy in dict.fromkeys(args.policy)], bounds)


def load_for_devices(args: argparse.Namespace) -> LoadedModel:
    """The model that the arguments name, on its first device."""
    if args.threads is not None:
        if args.threads < 1:
            raise UserError(f"--threads {args.threads}: at least 1 is needed")
        torch.set_num_threads(args.threads)
    return load(args.model, revision=args.revision, dtype=args.dtype, device=args.device)


def device_name(args: argparse.Namespace) -> str:
    """What results call the devices of a real run."""
    threads = torch.get_num_threads()
    return f"cpu with {threads} thread{'s'[: threads > 1]}" if args.device == "cpu" else str(args.device)


def _settings(args: argparse.Namespace, scratch: Path) -> CollectSettings:
    """What the recording of the resident model depends on."""
    if args.devices < 1:
        raise UserError(f"--devices {args.devices}: at least 1 is needed")
    if args.prompts is None and args.model not in RECIPES:
        raise UserError(f"--prompts is needed for {args.model}: only the models of this project come with their own")
    settings = CollectSettings(
        model=args.model,
        prompts=read_chosen(args, default=str(DEMO_PROMPTS)),
        out=args.record or scratch / "routing.trace",
        max_new_tokens=args.output_tokens or args.max_new_tokens,
        exactly=args.output_tokens is not None,
        prompt_tokens=args.prompt_tokens,
        chat_template=args.chat_template,
        batch_size=args.batch_size,
        lookahead=args.lookahead,
        overwrite=args.overwrite,
    )
    check_target(settings)
    return settings


def _cut(requests: Sequence[int], size: int) -> list[Sequence[int]]:
    """Groups of so many, in order, as the simulator runs them."""
    return [requests[start : start + size] for start in range(0, len(requests), size)]


@contextmanager
def _bar(name: str, requests: int) -> Iterator[Any]:
    with tqdm(total=requests, desc=name, unit="request", disable=None, leave=False) as bar:
        yield bar
