"""Images cut into crops and put together again, and what is said of an image by its crops."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alocc.data.frame import CROPS_AT_ONCE, MOST_CROPS, OVERLAP, Frame, offsets, thinned
from alocc.data.images import ImageFormat

FOUR_CROPS = Frame(ImageFormat(28, 28, 1), tile=16)
"""Two crops each way, which begin at 0 and 12."""


def generator():
    return torch.Generator().manual_seed(0)


@given(st.integers(16, 64), st.integers(0, 400))
def test_crops_cover_the_side_and_overlap(tile, more):
    starts = offsets(tile + more, tile)
    assert starts[0] == 0 and starts[-1] == more
    assert all(b - a <= tile * (1 - OVERLAP) + 1 for a, b in itertools.pairwise(starts))


@settings(max_examples=20)
@given(st.integers(16, 90), st.integers(16, 90), st.integers(1, 3))
def test_cut_and_joined_is_the_image(height, width, n):
    frame = Frame(ImageFormat(height, width, 3), 16)
    images = torch.rand((n, 3, height, width), generator=generator())
    crops = frame.cut(images)
    assert crops.shape == (n * len(offsets(height, 16)) * len(offsets(width, 16)), 3, 16, 16)
    assert len(crops) == n * frame.n_crops
    torch.testing.assert_close(frame.join(crops), images)


@pytest.mark.parametrize("frame", [Frame(ImageFormat(16, 16, 1), 16), Frame(ImageFormat(16, 16, 1))])
def test_an_image_of_one_crop_is_itself(frame):
    image = torch.rand((2, 1, 16, 16), generator=generator())
    assert frame.n_crops == 1 and frame.crop_format == ImageFormat(16, 16, 1)
    assert torch.equal(frame.cut(image), image) and torch.equal(frame.join(image), image)


def test_crops_come_image_after_image_and_row_after_row():
    images = torch.arange(2 * 28 * 28).view(2, 1, 28, 28)
    first_pixels = FOUR_CROPS.cut(images)[:, 0, 0, 0]
    assert FOUR_CROPS.corners == [(0, 0), (0, 12), (12, 0), (12, 12)]
    assert first_pixels.tolist() == [i * 784 + y * 28 + x for i in range(2) for y, x in FOUR_CROPS.corners]


def test_joined_crops_count_less_near_their_borders_by_hand():
    frame = Frame(ImageFormat(16, 28, 1), 16)
    joined = frame.join(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 16, 16))[0, 0, 5]
    # 12 columns of the first crop alone, 4 of both, 12 of the second alone; weights near a border are
    # 1.5, 2.5, 3.5 and 4.5 ninths
    ramp = [1.5, 2.5, 3.5, 4.5]
    expected = [0.0] * 12 + [own / (own + other) for own, other in zip(ramp, reversed(ramp), strict=True)] + [1.0] * 12
    torch.testing.assert_close(joined, torch.tensor(expected))


def test_an_image_is_as_anomalous_as_its_worst_crop_by_hand():
    scores = torch.tensor([0.0, 3.0, -1.0, 2.0, -5.0, -4.0, -4.5, -9.0])
    assert FOUR_CROPS.worst(scores).tolist() == [3.0, -4.0]
    assert FOUR_CROPS.worst_crop(scores).tolist() == [1, 5]


def test_each_crop_is_an_image_of_the_frame_of_crops():
    frame = Frame(ImageFormat(40, 28, 3), tile=16)
    assert frame.crop_format == frame.of_crops.image_format == frame.of_crops.crop_format == ImageFormat(16, 16, 3)
    assert (frame.n_crops, frame.of_crops.n_crops) == (6, 1)


@pytest.mark.parametrize(("most", "of_each"), [(1000, 9), (10, 3), (1, 1)])
def test_crops_are_drawn_as_many_of_each_image(most, of_each):
    frame = Frame(ImageFormat(40, 40, 1), 16)
    images = torch.arange(3, dtype=torch.float32).view(3, 1, 1, 1).expand(3, 1, 40, 40)
    crops, source = frame.draw(images, generator(), most)
    assert source.tolist() == sorted(list(range(3)) * of_each)
    assert torch.equal(crops[:, 0, 0, 0], source.float())


def test_no_crop_is_drawn_twice():
    image = torch.arange(28 * 28).view(1, 1, 28, 28)
    corners = FOUR_CROPS.draw(image, generator(), most=3)[0][:, 0, 0, 0]
    assert len(set(corners.tolist())) == 3


def test_whole_images_are_all_drawn_in_their_order():
    images = torch.rand((7, 1, 16, 16), generator=generator())
    drawn, source = Frame(ImageFormat(16, 16, 1)).draw(images, generator(), most=2)
    assert torch.equal(drawn, images) and source.tolist() == list(range(7))
    assert torch.equal(Frame(ImageFormat(16, 16, 1)).draw_some(images, 2, generator()), images)


def test_of_many_images_some_crops_of_some_are_drawn():
    images = torch.arange(10).view(10, 1, 1, 1).expand(10, 1, 28, 28)
    assert FOUR_CROPS.draw_some(images, 5, generator())[:, 0, 0, 0].tolist() == [0, 2, 4, 6, 8]
    assert FOUR_CROPS.draw_some(images, 25, generator())[:, 0, 0, 0].tolist() == [
        i for i in range(10) for _ in range(2)
    ]


def test_thinned_images_are_evenly_spread():
    images = torch.arange(10)
    assert thinned(images, 4).tolist() == [0, 2, 5, 7]
    assert torch.equal(thinned(images, 10), images) and torch.equal(thinned(images, 11), images)


def test_images_that_are_cut_are_thinned_by_their_crops():
    images = torch.arange(MOST_CROPS)
    assert len(Frame(ImageFormat(16, 16, 1)).thinned(images, 1_000)) == 1_000
    assert len(FOUR_CROPS.thinned(images, 1_000)) == MOST_CROPS // 4


@pytest.mark.parametrize(
    ("frame", "at_once"), [(Frame(ImageFormat(16, 16, 1)), CROPS_AT_ONCE), (FOUR_CROPS, CROPS_AT_ONCE // 4)]
)
def test_chunks_are_all_images_in_order_and_few_crops_each(frame, at_once):
    images = torch.arange(2 * at_once + 1)
    chunks = list(frame.chunks(images))
    assert [len(chunk) for chunk in chunks] == [at_once, at_once, 1]
    assert torch.equal(torch.cat(chunks), images)
    assert list(frame.chunks(images[:0])) == []
