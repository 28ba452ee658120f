"""Images cut into tiles and put together again."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alocc.data.frame import OVERLAP, cut, offsets, places, some, stitched


@given(st.integers(16, 64), st.integers(0, 400))
def test_tiles_cover_the_side_and_overlap(tile, more):
    starts = offsets(tile + more, tile)
    assert starts[0] == 0 and starts[-1] == more
    assert all(b - a <= tile * (1 - OVERLAP) + 1 for a, b in itertools.pairwise(starts))


@settings(max_examples=20)
@given(st.integers(16, 90), st.integers(16, 90), st.integers(1, 3))
def test_cut_and_stitched_is_the_image(height, width, n):
    images = torch.rand((n, 3, height, width), generator=torch.Generator().manual_seed(0))
    tiles = cut(images, 16)
    assert tiles.shape == (n * len(places((height, width), 16)), 3, 16, 16)
    torch.testing.assert_close(stitched(tiles, (height, width)), images)


def test_an_image_of_one_tile_is_itself():
    image = torch.rand((2, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    assert torch.equal(cut(image, 16), image)


@pytest.mark.parametrize(("most", "of_each"), [(1000, 9), (10, 3), (1, 1)])
def test_some_tiles_are_as_many_of_each_image(most, of_each):
    images = torch.arange(3, dtype=torch.float32).view(3, 1, 1, 1).expand(3, 1, 40, 40)
    tiles, source = some(images, 16, most, torch.Generator().manual_seed(0))
    assert source.tolist() == sorted(list(range(3)) * of_each)
    assert torch.equal(tiles[:, 0, 0, 0], source.float())
