"""Where this was before: :mod:`alocc.scoring.open`."""

from alocc.scoring.open import Engine

__all__ = ["Engine"]
