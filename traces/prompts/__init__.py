"""Prompt sets: built-in ones, files, and data sets of the Hugging Face hub."""
