"""Files that appear whole or not at all."""

from traces.files import replacing

__all__ = ["replacing"]
