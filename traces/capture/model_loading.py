"""Load a Transformers model: one shipped with the project, a folder, or a repository of the Hugging Face hub."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging
from transformers.utils.hub import cached_file

from common.errors import UserError, unknown
from common.hashing import sha256_of_json
from traces.capture.capture_settings import Dtype
from traces.pocket import model_dir
from traces.pocket.recipe import RECIPES

DTYPES: Mapping[Dtype, Any] = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in evaluation mode on its device, its tokenizer, and their origin as stored in traces."""

    name: str
    revision: str | None  # commit on the hub
    model: Any
    tokenizer: Any
    device: torch.device  # for the inputs

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All devices that compute: several if a device map spread the model."""
        # Weights that a map leaves in host memory or on disk are copied to the first of these when they are used.
        return (self.device, *_accelerators(getattr(self.model, "hf_device_map", {}).values()))

    @property
    def config(self) -> Any:
        """The configuration of the language model, which may be a part of a larger model."""
        return self.model.config.get_text_config()

    @property
    def dtype(self) -> str:
        """Data type of the weights, e.g. `float32`."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def context(self) -> int | None:
        """Maximum sequence length in tokens; None if the model does not state it."""
        longest = getattr(self.config, "max_position_embeddings", None)
        return longest if isinstance(longest, int) else None

    @property
    def eos(self) -> tuple[int, ...]:
        """The end-of-sequence tokens."""
        for holder in (self.model.generation_config, self.config, self.tokenizer):
            found = getattr(holder, "eos_token_id", None)
            if found is not None:
                return (found,) if isinstance(found, int) else tuple(found)
        return ()

    @property
    def config_sha256(self) -> str:
        """Hash of the configuration, without the parts that depend on the machine or library version."""
        content = self.model.config.to_dict()
        return sha256_of_json(
            {key: content[key] for key in content if key not in ("_name_or_path", "transformers_version")}
        )


def load(
    name: str,
    *,
    revision: str | None = None,
    dtype: Dtype = "auto",
    device: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load `name`: a committed model (`pocket` or a twin), a folder, or a Hugging Face repository.

    Only safetensors are read. The `dtype` "auto" is the checkpoint's; for committed models it is float32, as in
    `traces.pocket`. The default `device`, also "auto", is a GPU if available. A `device_map` (of accelerate: a
    `DeviceMap`, or a device per module) spreads the weights instead. Code from the repository runs only with
    `trust_remote_code`. Raises `UserError` if the model cannot be found or loaded.
    """
    place = _device(device)
    source = str(model_dir(name)) if name in RECIPES else name
    local = Path(source).is_dir()
    if not local and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise UserError(f"{source}: does not exist")
    if not local and "/" not in source:  # hub models are called OWNER/NAME
        raise UserError(
            f"{unknown('model', source, RECIPES)} (or give a folder, or OWNER/NAME on the Hugging Face hub)"
        )
    if local and not any((Path(source) / file).exists() for file in _TOKENIZERS):
        raise UserError(f"model {source}: the folder has no tokenizer: it has none of {', '.join(_TOKENIZERS)}")
    wanted: Dtype = "float32" if name in RECIPES and dtype == "auto" else dtype
    common: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    auto_model: Any = AutoModelForCausalLM  # its annotations change from release to release
    with _errors_in_one_line(name), _bars_on_terminals_only():
        if not local:
            common["revision"] = revision = _commit(source, revision)
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
        model, report = auto_model.from_pretrained(
            source,
            dtype=DTYPES[wanted],
            use_safetensors=True,
            output_loading_info=True,
            device_map=device_map,
            **common,
        )
        missing = sorted(report["missing_keys"])
        if missing:
            raise UserError(f"model {name}: the checkpoint lacks {len(missing)} weights, the first {missing[0]!r}")
        if device_map is None:
            model = model.to(place)
        else:
            place = next(_accelerators(getattr(model, "hf_device_map", {}).values()), torch.device("cpu"))
        model = model.eval()
    return LoadedModel(
        name=Path(source).resolve().name if local else name,
        revision=None if local else revision,
        model=model,
        tokenizer=tokenizer,
        device=place,
    )


# One of these has the vocabulary.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


@contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    """Keep the progress bars of Transformers out of log files."""
    if sys.stderr.isatty() or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _commit(source: str, revision: str | None) -> str:
    """The commit that `revision` (a branch, tag or commit; default: the default branch) currently points to.

    It pins model and tokenizer to the same commit, and a resumed collection notices if the branch has moved.
    """
    folder = Path(str(cached_file(source, "config.json", revision=revision or "main"))).parent
    return folder.name if _is_commit(folder.name) else (revision or "main")


def _is_commit(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{40}", text) is not None


def _accelerators(places: Iterable[Any]) -> Iterator[torch.device]:
    """The GPUs among the values of a device map, which are numbers, names and "disk"."""
    for place in places:
        device = torch.device("cpu") if place == "disk" else torch.device(place)
        if device.type != "cpu":
            yield device


def _device(name: str | None) -> torch.device:
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} cannot be used: {_first_line(error)}") from None
    return device


@contextmanager
def _errors_in_one_line(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        if "offload_folder" in str(error):  # a device map needed to put a part on disk
            raise UserError(f"model {name} does not fit into the memory of all devices and of the host") from error
        raise UserError(f"model {name} cannot be loaded: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
