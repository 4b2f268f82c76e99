"""Read the dumps of SGLang's expert distribution recorder, `expert_distribution_recorder_*.pt`.

The format follows `python/sglang/srt/eplb/expert_distribution.py` of sgl-project/sglang (modes stat, stat_approx,
per_pass and per_token); this reader was written from the code, without a dump to test on. Modes stat and stat_approx
dump `logical_count` `[steps, layers, experts]`, summed over all ranks; unused steps of the buffer are 0. The others
dump, for each rank, `records` of forward passes with `global_physical_count` `[layers, physical experts]` of that
rank's tokens, and `last_physical_to_logical_map` of the same shape. No mode stores the request of a token.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import one_line, reason
from policies.types import Int
from traces.format.schema import TraceError


def read_pt(file: Path) -> Int:
    """Counts of logical experts, `[steps, layers, experts]` or `[layers, experts]`; runs no code from the file."""
    try:
        data = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise TraceError.at(file, f"cannot be read: {reason(error)}") from None
    except Exception:  # torch raises nearly anything for a foreign file, and recommends unsafe loading
        raise TraceError.at(file, "cannot be read: it is no PyTorch file, or holds more than tensors") from None
    if isinstance(data, torch.Tensor):
        return data.numpy()
    if isinstance(data, dict) and isinstance(data.get("logical_count"), torch.Tensor):
        counts: Int = data["logical_count"].numpy()
        return counts
    if isinstance(data, dict) and "records" in data and "last_physical_to_logical_map" in data:
        return _logical(file, data)
    content = ", ".join(map(str, data)) if isinstance(data, dict) else type(data).__name__
    raise TraceError.at(file, f"has neither logical_count nor records; it has {content}")


def _logical(file: Path, data: dict[str, Any]) -> Int:
    """The counts of all records, summed over the physical copies of each logical expert."""
    try:
        mapping = data["last_physical_to_logical_map"].numpy()  # [layers, physical]
        physical = sum(record["global_physical_count"].numpy().astype(np.int64) for record in data["records"])
        counts = np.zeros((len(mapping), int(mapping.max()) + 1), np.int64)
        np.add.at(counts, (np.arange(len(mapping))[:, None], mapping), physical)
    except (KeyError, AttributeError, TypeError, ValueError, IndexError) as error:
        what = f"records must have global_physical_count as large as last_physical_to_logical_map: {one_line(error)}"
        raise TraceError.at(file, what) from None
    return counts
