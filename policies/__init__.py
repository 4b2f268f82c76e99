"""Everything that decides: the expert cache, the expert-map store and the offloading policies.

Plain code without a clock, a file or a GPU; the simulator and real runs drive the same objects.
"""
