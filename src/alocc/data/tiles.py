"""A large image as overlapping square tiles, and maps of tiles as one map of the image."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

OVERLAP = 0.25
"""Share of a tile's side that it has in common with the next one, at least: what lies on a border is whole in one."""


def offsets(side: int, tile: int) -> list[int]:
    """Where tiles begin along a side: evenly spread, from one end to the other.

    >>> offsets(160, 64)
    [0, 48, 96]
    """
    n = 1 + math.ceil((side - tile) / (tile * (1 - OVERLAP)))
    return [round(i * (side - tile) / max(1, n - 1)) for i in range(n)]


def places(size: tuple[int, int], tile: int) -> list[tuple[int, int]]:
    """Upper left corner of each tile of an image of this height and width, row after row."""
    return list(itertools.product(offsets(size[0], tile), offsets(size[1], tile)))


def cut(images: Tensor, tile: int) -> Tensor:
    """(n, C, H, W) → (n · tiles, C, tile, tile), image after image."""
    corners = places((images.shape[2], images.shape[3]), tile)
    return torch.stack([images[:, :, y : y + tile, x : x + tile] for y, x in corners], 1).flatten(0, 1)


def tiles_in(size: tuple[int, int], tile: int, most: int, n_images: int) -> int:
    """How many tiles of each image there can be if all together are to be at most about ``most``."""
    return max(1, min(len(places(size, tile)), most // n_images))


def some(images: Tensor, tile: int, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """At most about ``most`` tiles, as many of each image, and the index of the image that each is from."""
    of_each = tiles_in((images.shape[2], images.shape[3]), tile, most, len(images))
    chosen = []
    for image in images:
        tiles = cut(image[None], tile)
        chosen.append(tiles[torch.randperm(len(tiles), generator=generator)[:of_each]])
    return torch.cat(chosen), torch.arange(len(images)).repeat_interleave(of_each)


def stitched(tiles: Tensor, size: tuple[int, int]) -> Tensor:
    """(n · tiles, C, tile, tile) → (n, C, H, W): where tiles overlap, their mean, borders counting less."""
    tile = tiles.shape[-1]
    corners = places(size, tile)
    n, channels = len(tiles) // len(corners), tiles.shape[1]
    ramp = 1 - (torch.arange(tile).to(tiles) - (tile - 1) / 2).abs() / (tile / 2 + 1)
    weight = torch.outer(ramp, ramp)
    total, weights = tiles.new_zeros((n, channels, *size)), tiles.new_zeros(size)
    for i, (y, x) in enumerate(corners):
        total[:, :, y : y + tile, x : x + tile] += tiles[i :: len(corners)] * weight
        weights[y : y + tile, x : x + tile] += weight
    whole: Tensor = total / weights
    return whole
