"""Sweeps over many scenarios: planning, running, statistics, reports and figures."""
