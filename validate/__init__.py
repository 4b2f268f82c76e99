"""Real devices under the same policies, and how the simulation compares with them."""
