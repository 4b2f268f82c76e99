"""The files in the folder of a trace; only a folder with none but these is replaced."""

TRACE_FILES = ("meta.json", "requests.parquet", "tokens.parquet", "embeddings.parquet")
