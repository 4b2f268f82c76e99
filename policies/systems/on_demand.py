"""Caches that only copy on demand: least recently used, least frequently used, and Belady's rule."""

from policies.base import Policy, Prefetcher
from policies.evictors.belady import Belady
from policies.evictors.frequency import LeastFrequentlyUsed
from policies.evictors.recency import LeastRecentlyUsed


def lru() -> Policy:
    """Copy on demand only, evict the least recently used."""
    return Policy(prefetcher=Prefetcher(), evictor=LeastRecentlyUsed())


def lfu() -> Policy:
    """Copy on demand only, evict the least frequently used."""
    return Policy(prefetcher=Prefetcher(), evictor=LeastFrequentlyUsed())


def belady() -> Policy:
    """Copy on demand only, evict what is needed again last (Belady): a bound for eviction, not for time."""
    return Policy(prefetcher=Prefetcher(), evictor=Belady())
