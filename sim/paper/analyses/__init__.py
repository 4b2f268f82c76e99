"""Analyses of routing alone, whose tables the figures draw."""
