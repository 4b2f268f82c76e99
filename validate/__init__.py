"""Run the same policies on real devices, and compare the simulation with them."""
