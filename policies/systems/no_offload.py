"""No offloading: every expert resident, the reference for all other policies."""

from policies.base import Evictor, Policy, Prefetcher


def no_offload() -> Policy:
    """Keep every expert on its GPU from the start: the reference for all offloading."""
    return Policy(prefetcher=Prefetcher(), evictor=Evictor(), preloaded=True)
