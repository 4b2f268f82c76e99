"""The command `python -m traces collect`."""

import argparse
from pathlib import Path

from common.commands import add_writing_arguments
from common.errors import UserError
from traces.cli.prompts import add_choice_arguments, read_chosen
from traces.pocket.recipe import RECIPES

MODEL_HELP = f"{', '.join(RECIPES)}, a folder, or a repository of the Hugging Face hub"
_MODEL_LIBRARIES = {"accelerate", "jinja2", "torch", "transformers", "safetensors", "tokenizers", "huggingface_hub"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `run` reads."""
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL_HELP)
    add(
        "--prompts",
        required=True,
        metavar="NAME_OR_FILE",
        help="built-in, lmsys-chat-1m, a file … (see `traces prompts`)",
    )
    add_choice_arguments(parser)
    add_length_arguments(parser)
    add("--out", required=True, type=Path, metavar="NAME.trace", help="the trace to write")
    add("--keep-prompts", action="store_true", help="store the prompts' text, not only its hash")
    add("--lookahead", type=distances, default=(), metavar="D,D", help="also apply router l+D to what router l sees")
    together = parser.add_mutually_exclusive_group()
    together.add_argument(
        "--batch-size", type=_positive, default=8, metavar="N", help="prompts that run together (default: %(default)s)"
    )
    together.add_argument(
        "--batch-tokens",
        type=_positive,
        metavar="N",
        help="instead: as many as have at most N tokens, prompts padded to the longest and new tokens counted",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--greedy", action="store_true", help="take the likeliest token (the default)")
    how.add_argument("--temperature", type=_temperature, metavar="T", help="sample instead")
    add(
        "--seed",
        type=_natural,
        default=0,
        metavar="N",
        help="of --sample and --temperature (default: %(default)s)",
    )
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help="default: the checkpoint's")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1 … (default: cuda if there is one)"
    )
    where.add_argument(
        "--device-map", choices=["auto", "balanced", "sequential"], help="instead: spread the model over all GPUs"
    )
    add("--threads", type=_positive, metavar="N", help="of the CPU (default: torch's choice); small models want 1")
    add("--revision", metavar="NAME", help="branch, tag or commit of a repository of the hub")
    add("--trust-remote-code", action="store_true", help="run model code that the repository brings (default: never)")
    add_writing_arguments(parser)


def add_length_arguments(parser: argparse.ArgumentParser, *, new_tokens: int | None = None) -> None:
    """Declare how prompts become tokens and how many are generated, by default at most `new_tokens`."""
    add = parser.add_argument
    default = f" (default: {new_tokens})" if new_tokens else ""
    output = parser.add_mutually_exclusive_group(required=new_tokens is None)
    output.add_argument(
        "--max-new-tokens", type=_positive, default=new_tokens, metavar="N", help="tokens to generate at most" + default
    )
    output.add_argument(
        "--output-tokens", type=_positive, metavar="M", help="instead: exactly M; what ends a generation is not chosen"
    )
    add(
        "--prompt-tokens",
        type=_positive,
        metavar="N",
        help="give every prompt exactly N tokens, start token and template counted: cut, or continued with the next",
    )
    add("--chat-template", action="store_true", help="each prompt as a user's turn, in the tokenizer's chat template")


def run(args: argparse.Namespace) -> int:
    """Collect; the same command again goes on after an interruption."""
    try:
        from traces.capture.collection import CollectSettings, collect
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _MODEL_LIBRARIES:
            raise
        raise UserError(f"collect needs {error.name}: pip install 'finemoe-lab[models]'") from None
    path = collect(
        CollectSettings(
            model=args.model,
            prompts=read_chosen(args),
            out=args.out,
            max_new_tokens=args.output_tokens or args.max_new_tokens,
            exactly=args.output_tokens is not None,
            prompt_tokens=args.prompt_tokens,
            chat_template=args.chat_template,
            batch_size=args.batch_size,
            batch_tokens=args.batch_tokens,
            lookahead=args.lookahead,
            temperature=args.temperature,
            seed=args.seed,
            dtype=args.dtype,
            device=args.device,
            device_map=args.device_map,
            trust_remote_code=args.trust_remote_code,
            threads=args.threads,
            revision=args.revision,
            keep_prompts=args.keep_prompts,
            restart=args.restart,
            overwrite=args.overwrite,
        )
    )
    print(path)
    return 0


def _positive(text: str) -> int:
    return _whole(text, least=1)


def _natural(text: str) -> int:
    return _whole(text, least=0)


def _whole(text: str, *, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least}, value {text!r}")
    return int(text)


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, value {text!r}")
    return value


def distances(text: str) -> tuple[int, ...]:
    """`1,3` as an argument."""
    return tuple(sorted({_positive(part.strip()) for part in text.split(",")}))
