"""Where this was before: :mod:`alocc.scoring.stream`."""

from alocc.scoring.stream import Engine

__all__ = ["Engine"]
