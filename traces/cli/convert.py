"""Other people's traces in our format: `python -m traces convert FORMAT`, a module for each format."""

import argparse
import importlib

# The module with `add_arguments(parser)` and `run(args)`, which answers what it has written; and what the source is.
FORMATS = {
    "npz": ("traces.convert.npz", "arrays experts, probs, offsets, token, source"),
    "jsonl": (
        "traces.convert.jsonl",
        "a line per token and layer, token, or response: route logs of vLLM and alike",
    ),
    "policylang": ("traces.convert.policylang", "what moe-policylang's recorder wrote, .jsonl or .parquet"),
    "store": ("traces.convert.authors_store", "the expert-map store of FineMoE's authors, for `sim run --history`"),
    "counts": ("traces.convert.count_dumps", "how often each expert was used (SGLang, vLLM), for `sim run --counts`"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `python -m traces convert`."""
    formats = parser.add_subparsers(dest="format", required=True, metavar="FORMAT")
    for name, (module, what) in FORMATS.items():
        importlib.import_module(module).add_arguments(
            formats.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        )


def run(args: argparse.Namespace) -> int:
    """Convert and say what came out."""
    print(importlib.import_module(FORMATS[args.format][0]).run(args))
    return 0
