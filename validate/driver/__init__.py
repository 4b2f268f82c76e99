"""The driver for real devices, with threads and real time."""
