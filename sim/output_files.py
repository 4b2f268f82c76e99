"""The files in folders that commands write; only a folder with none but these is replaced."""

RESULT_FILES = ("meta.json", "summary.parquet", "requests.parquet", "iterations.parquet", "events.parquet")
SWEEP_FILES = ("meta.json", "sweep.parquet")
