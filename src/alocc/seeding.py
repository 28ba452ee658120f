"""One seed → independent, named random streams. Nothing in alocc touches a global generator.

Streams are told apart by name, so that adding one never shifts the numbers another one draws.
They live on the CPU whatever the device, so that a seed means the same everywhere.
"""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, name: str) -> torch.Generator:
    """Make the random stream called ``name`` of this ``seed``; the same pair always starts the same stream."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
