"""The driver of real devices: threads and real time."""
