"""Files and arrays → tensors of one format, checked against values worked out by hand."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from alocc.data.images import (
    Header,
    ImageFormat,
    is_grey,
    prepare_batch,
    read_header,
    read_image,
    to_unit_range,
)
from alocc.data.resizing import as_images, brought_to
from alocc.errors import DataError

GREY = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
COLOUR = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 14
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


def prepare(image, to):
    return prepare_batch(np.asarray(image)[None], to)[0]


def png_claiming(width, height):
    """A PNG whose header promises so many pixels, and that holds none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_lossless_formats_give_back_the_pixels(save_image, suffix):
    path = save_image(COLOUR, f"a{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(read_image(path), COLOUR)
    assert read_header(path) == Header(2, 3, grey=False)


def test_grey_file_has_two_dimensions(save_image):
    path = save_image(GREY, "a.png")
    np.testing.assert_array_equal(read_image(path), GREY)
    assert read_header(path) == Header(2, 3, grey=True)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_turns_the_image_upright(save_image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save_image(GREY, "a.png", exif=exif)
    expected = UPRIGHT[orientation](GREY)
    np.testing.assert_array_equal(read_image(path), expected)
    assert read_header(path) == Header(*expected.shape, grey=True)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_keeps_its_most_significant_part(save_image, suffix):
    values = np.array([[0, 256, 257, 32_768], [65_278, 65_279, 65_534, 65_535]], dtype=np.uint16)
    path = save_image(values, f"a{suffix}")
    np.testing.assert_array_equal(read_image(path), [[0, 0, 1, 127], [254, 254, 254, 255]])
    assert read_header(path).grey


def test_palette_becomes_its_colours(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 10, 20, 30])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), [[[255, 0, 0], [10, 20, 30]]])


def test_palette_with_transparency_becomes_its_colours_in_silence(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 10, 20, 30])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=bytes([255, 128]))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), [[[255, 0, 0], [10, 20, 30]]])


def test_transparency_is_dropped(save_image):
    path = save_image(np.dstack([COLOUR, np.full((2, 3), 77, np.uint8)]), "a.png")
    np.testing.assert_array_equal(read_image(path), COLOUR)


def test_grey_with_transparency_stays_grey(tmp_path):
    Image.fromarray(GREY).convert("LA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), GREY)
    assert read_header(tmp_path / "a.png").grey


def test_black_and_white_becomes_0_and_255(save_image):
    path = save_image(np.array([[True, False]]), "a.png")
    np.testing.assert_array_equal(read_image(path), [[255, 0]])


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == (8, 8, 3)
    np.testing.assert_allclose(image, np.broadcast_to([255, 0, 0], (8, 8, 3)), atol=3)


def test_of_a_cameras_two_pictures_the_first_counts(tmp_path):
    first, preview = (Image.new("L", (32, 16), value) for value in (200, 50))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview.resize((16, 8))])
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "MPO"
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg").astype(int), np.full((16, 32), 200), atol=2)


def test_a_later_page_above_the_limits_is_refused_and_the_first_is_not(tmp_path):
    Image.new("1", (20, 20)).save(
        tmp_path / "a.tif", save_all=True, append_images=[Image.new("1", (9_000, 9_000)), Image.new("1", (51, 1))],
        compression="group4",
    )  # fmt: skip
    assert read_image(tmp_path / "a.tif").shape == (20, 20)
    with pytest.raises(DataError, match="9000×9000 pixels; 80,000,000 are allowed"):
        read_header(tmp_path / "a.tif", page=1)
    with pytest.raises(DataError, match="50 times longer"):
        read_image(tmp_path / "a.tif", page=2)


def test_floating_point_pixels_are_refused(save_image):
    path = save_image(np.ones((4, 4), np.float32), "a.tif")
    with pytest.raises(DataError, match=r"a\.tif.*floating-point.*8 or 16 bits"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated_file_is_refused_by_name(save_image, suffix, kept):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save_image(noise, f"a{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DataError, match=rf"a\{suffix} "):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", r"cannot be read \(the file is empty\)"), (b"these are words, not pixels", "is not a PNG, JPEG")],
    ids=["empty", "text"],
)
@pytest.mark.parametrize("read", [read_header, read_image])
def test_what_is_no_image_is_refused_by_name(tmp_path, content, reason, read):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.jpg {reason}"):
        read(path)
    with pytest.raises(DataError, match=f"in an archive {reason}"):
        read(lambda: io.BytesIO(content), "in an archive")


@pytest.mark.parametrize("read", [read_header, read_image])
def test_missing_file_is_named(tmp_path, read):
    with pytest.raises(DataError, match=r"gone\.png cannot be read \(No such file"):
        read(tmp_path / "gone.png")


@pytest.mark.parametrize("size", [(80_001, 1_000), (20_000, 20_000)], ids=["just above", "far above"])
def test_image_above_the_pixel_limit_is_refused_before_it_is_decoded(tmp_path, size):
    path = tmp_path / "huge.png"
    path.write_bytes(png_claiming(*size))
    with pytest.raises(DataError, match=r"huge\.png.*pixels"):
        read_header(path)


def test_header_of_an_image_below_the_pixel_limit_is_read_in_silence(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(png_claiming(8_000, 9_999))
    assert read_header(path) == Header(9_999, 8_000, grey=True)


@pytest.mark.parametrize("to", [ImageFormat(2, 3, 3), ImageFormat(2, 3, 1), ImageFormat(5, 4, 3)], ids=str)
def test_array_and_its_png_are_prepared_alike(save_image, to):
    path = save_image(COLOUR, "a.png")
    assert torch.equal(prepare(COLOUR, to), prepare(read_image(path), to))


def test_one_image_is_prepared_as_in_a_batch():
    images = np.random.default_rng(0).integers(0, 256, (5, 9, 7, 3), dtype=np.uint8)
    to = ImageFormat(16, 12, 1)
    batch = prepare_batch(images, to)
    assert torch.equal(batch, torch.stack([prepare(image, to) for image in images]))


def test_image_in_its_format_keeps_its_pixels_and_type():
    prepared = prepare(COLOUR, ImageFormat(2, 3, 3))
    assert prepared.dtype == torch.uint8
    np.testing.assert_array_equal(prepared.numpy(), COLOUR.transpose(2, 0, 1))


def test_preparing_leaves_the_array_alone():
    array = np.full((1, 4, 4), 7, np.uint8)
    prepare_batch(array, ImageFormat(4, 4, 1)).float().mul_(0)
    array.setflags(write=False)
    prepared = prepare_batch(array, ImageFormat(4, 4, 1))
    prepared += 1
    assert (array == 7).all()


def test_grey_becomes_colour_by_repetition():
    prepared = prepare(GREY, ImageFormat(2, 3, 3))
    np.testing.assert_array_equal(prepared.numpy(), [GREY, GREY, GREY])


def test_colour_becomes_grey_by_luma():
    image = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [100, 150, 200]]], np.uint8)
    # 0.299 · 255 = 76.2, 0.587 · 255 = 149.7, 0.114 · 255 = 29.1, 29.9 + 88.05 + 22.8 = 140.75
    np.testing.assert_array_equal(prepare(image, ImageFormat(1, 4, 1)).numpy(), [[[76, 150, 29, 141]]])


def test_grey_images_keep_every_value_on_the_way_through_colour():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colour = np.repeat(ramp[..., None], 3, axis=2)
    np.testing.assert_array_equal(prepare(colour, ImageFormat(16, 16, 1)).numpy()[0], ramp)


@pytest.mark.parametrize("size", [(16, 16), (7, 5), (3, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_gives_the_shape_and_keeps_a_constant(size, channels):
    prepared = prepare(np.full((11, 13), 90, np.uint8), ImageFormat(*size, channels))
    assert prepared.shape == (channels, *size)
    assert prepared.unique().tolist() == [90]


def test_enlarging_interpolates_between_pixel_centres():
    # two pixels become four: centres at −¼, ¼, ¾ and 1¼ of the old grid, the outer ones clamped
    prepared = prepare(np.array([[0, 200]], np.uint8), ImageFormat(1, 4, 1))
    assert prepared.tolist() == [[[0, 50, 150, 200]]]


def test_shrinking_averages_instead_of_skipping_pixels():
    lines = np.zeros((32, 32), np.uint8)
    lines[:, ::4] = 200
    middle = prepare(lines, ImageFormat(4, 4, 1))[0, :, 1:-1].float()
    assert (middle - 50).abs().max() <= 2


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("to", [ImageFormat(16, 16, 1), ImageFormat(20, 6, 3), ImageFormat(5, 40, 1)], ids=str)
def test_floats_are_the_pixels_that_they_were_made_from(dtype, to):
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for pixels in (image, np.dstack([image, image.T, image[::-1]])):
        assert torch.equal(prepare((pixels / 255).astype(dtype), to), prepare(pixels, to))


def test_floats_between_two_steps_are_rounded():
    assert prepare(np.array([[0.0, 0.4 / 255, 0.6 / 255, 1.0]]), ImageFormat(1, 4, 1)).tolist() == [[[0, 0, 1, 255]]]


@pytest.mark.parametrize("wrong", [1.01, -0.01, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_outside_0_to_1_is_refused(wrong, dtype):
    image = np.full((4, 4), 0.5, dtype)
    image[2, 1] = wrong
    with pytest.raises(DataError, match=r"must be in \[0, 1\], without NaN"):
        prepare(image, ImageFormat(4, 4, 1))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, np.bool_, np.complex64, np.object_, "U3", "M8[s]"])
def test_other_types_are_refused_by_name(dtype):
    array = np.zeros((2, 4, 8), dtype)
    for refuse in (lambda: brought_to(array, ImageFormat(4, 8, 1)), lambda: as_images(array)):
        with pytest.raises(
            DataError, match=rf"expected uint8 images or floats in \[0, 1\], got {array.dtype}".replace("[s]", r"\[s\]")
        ):
            refuse()


@pytest.mark.parametrize("shape", [(4, 4, 2), (4, 4, 4), (1, 4, 4, 3), (0, 4), (4, 0, 3)])
def test_an_image_of_another_shape_is_refused(shape):
    with pytest.raises(DataError, match=r"holds no images; images are \(n, H, W\)"):
        prepare(np.zeros(shape, np.uint8), ImageFormat(4, 4, 1))


@pytest.mark.parametrize("shape", [(), (7,), (2, 8, 8, 2), (2, 8, 8, 4), (2, 8, 0), (2, 0, 8, 3), (1, 2, 8, 8, 3)])
def test_arrays_of_another_shape_are_refused(shape):
    with pytest.raises(DataError, match=r"holds no images; images are \(n, H, W\)"):
        as_images(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_in_front_are_told_to_come_last(channels):
    with pytest.raises(DataError, match="channels come last"):
        as_images(np.zeros((5, channels, 32, 48), np.uint8))


@pytest.mark.parametrize("shape", [(64, 48), (100, 120, 3), (100, 120, 1), (100, 120, 4), (100, 120, 2), (5, 5, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_one_image_is_no_array_of_many(shape, dtype):
    with pytest.raises(DataError, match=r"looks like one image; give image\[None\]"):
        as_images(np.zeros(shape, dtype))


@pytest.mark.parametrize("shape", [(3, 64, 48), (0, 64, 48), (1, 100, 120, 3), (9, 4, 4), (9, 1, 1), (100, 120, 3, 1)])
def test_many_images_are_many_images(shape):
    array = np.zeros(shape, np.uint8)
    assert as_images(array) is array


def test_lists_are_arrays_if_their_images_are_of_one_size():
    image = np.zeros((8, 9), np.uint8)
    assert as_images([image, image]).shape == (2, 8, 9)
    with pytest.raises(DataError, match="images of different sizes are no array"):
        as_images([image, image[:5]])


def test_where_the_pixels_lie_in_memory_changes_nothing():
    images = np.random.default_rng(0).integers(0, 256, (4, 9, 7, 3), dtype=np.uint8)
    frozen = images.copy()
    frozen.flags.writeable = False
    layouts = [
        frozen,
        np.asfortranarray(images),
        images[:, ::-1, ::-1].copy()[:, ::-1, ::-1],
        np.repeat(images, 2, 2)[:, :, ::2],
        images.transpose(3, 0, 1, 2).copy().transpose(1, 2, 3, 0),
    ]
    for to in (ImageFormat(9, 7, 3), ImageFormat(9, 7, 1), ImageFormat(5, 12, 3)):
        for layout in layouts:
            assert torch.equal(prepare_batch(layout, to), prepare_batch(images, to))


def test_no_images_give_no_tensors():
    assert prepare_batch(np.zeros((0, 8, 8), np.uint8), ImageFormat(16, 12, 3)).shape == (0, 3, 16, 12)


def test_unit_range_divides_by_255_and_leaves_floats():
    assert to_unit_range(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0.0, 0.2, 1.0])
    halves = torch.tensor([0.5])
    assert to_unit_range(halves) is halves


def test_three_equal_channels_are_grey():
    same = np.repeat(GREY[..., None], 3, axis=2)
    different = same.copy()
    different[1, 2, 2] += 1
    assert is_grey(GREY) and is_grey(GREY[..., None]) and is_grey(same)
    assert not is_grey(different)
