"""Everything resident: what offloading is measured against."""

from policies.base import Evictor, Policy, Prefetcher


def no_offload() -> Policy:
    """Every expert on its GPU from the start: what offloading is measured against."""
    return Policy(prefetcher=Prefetcher(), evictor=Evictor(), preloaded=True)
