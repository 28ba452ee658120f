"""Masks, and maps against masks, on cases whose figures are plain to see."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import alocc
from alocc.config import preset, with_settings
from alocc.data.images import ImageFormat
from alocc.errors import DataError
from alocc.evaluation.labelled import evaluate, load_labelled
from alocc.evaluation.pixels import load_masks, per_region_overlap, pixel_figures

MASKS = np.zeros((2, 20, 20), bool)
MASKS[0, 2:6, 2:6] = True
MASKS[0, 10:18, 10:18] = True
MARK = np.zeros((20, 20), bool)
MARK[5:14, 8:17] = True
TO = ImageFormat(20, 20, 1)
WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (200, 0, 0)


def marked_in(path):
    return load_masks([path], TO)[0]


# -- masks


def palette(*colours, index=MARK, **options):
    """A mask of 0 and 1 with such colours."""
    image = Image.fromarray(np.asarray(index, np.uint8))
    image.putpalette([channel for colour in colours for channel in colour])
    return image, options


def rgba(colour, alpha):
    """One colour, or one where the mask marks and another elsewhere; likewise transparent."""
    pixels = np.empty((20, 20, 4), np.uint8)
    for mark in (False, True):
        pixels[mark == MARK, :3] = colour[mark] if isinstance(colour, dict) else colour
        pixels[mark == MARK, 3] = alpha[mark]
    return Image.fromarray(pixels), {}


OPAQUE, DRAWN = {False: 255, True: 255}, {False: 0, True: 255}
SAME_MARK = {
    **{
        f"8 bits, {value}": lambda value=value: (Image.fromarray(MARK * np.uint8(value)), {}) for value in (1, 127, 255)
    },
    **{f"16 bits, {v}": lambda v=v: (Image.fromarray(MARK * np.uint16(v)), {}) for v in (1, 200, 255, 256, 65_535)},
    "1 bit": lambda: (Image.fromarray(MARK), {}),
    "16 bits, labels": lambda: (Image.fromarray(MARK * np.arange(1, 401, dtype=np.uint16).reshape(20, 20)), {}),
    "blue alone": lambda: (Image.fromarray(np.dstack([MARK * np.uint8(n) for n in (0, 0, 1)])), {}),
    "grey and opaque": lambda: (Image.fromarray(np.dstack([MARK * np.uint8(9), np.full((20, 20), 255, np.uint8)])), {}),
    "white and opaque": lambda: rgba({False: BLACK, True: WHITE}, OPAQUE),
    "white, drawn by alpha": lambda: rgba(WHITE, DRAWN),
    "white, hardly visible": lambda: rgba(WHITE, {False: 0, True: 1}),
    "black, drawn by alpha": lambda: rgba(BLACK, DRAWN),
    "red on transparent white": lambda: rgba({False: WHITE, True: RED}, DRAWN),
    "black on transparent white": lambda: rgba({False: WHITE, True: BLACK}, DRAWN),
    "palette, black and red": lambda: palette(BLACK, RED),
    "palette, white and red": lambda: palette(WHITE, RED, (0, 0, 0)),
    "palette, black twice": lambda: palette(BLACK, BLACK),
    "palette, red and black": lambda: palette(RED, BLACK, index=~MARK),
    "palette, transparent and red": lambda: palette(WHITE, RED, transparency=0),
    "palette of 16 labels": lambda: palette(*[(16 * i, 0, 0) for i in range(16)], index=MARK * 15),
}


@pytest.mark.parametrize("mask", SAME_MARK)
def test_a_mask_marks_what_is_not_black_in_whatever_form(tmp_path, mask):
    image, options = SAME_MARK[mask]()
    image.save(tmp_path / "mask.png", **options)
    np.testing.assert_array_equal(marked_in(tmp_path / "mask.png"), MARK)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_masks_are_tiffs_of_any_depth(tmp_path, dtype):
    Image.fromarray(MARK.astype(dtype)).save(tmp_path / "mask.tif")
    np.testing.assert_array_equal(marked_in(tmp_path / "mask.tif"), MARK)


def test_a_mask_that_marks_nothing_or_everything(tmp_path):
    for name, image in {
        "black": Image.new("L", (20, 20)),
        "nothing drawn": Image.new("RGBA", (20, 20), (255, 255, 255, 0)),
        "black and opaque": Image.new("RGBA", (20, 20), (0, 0, 0, 255)),
        "first colour": palette(WHITE, RED, index=MARK & False)[0],
    }.items():
        image.save(tmp_path / f"{name}.png")
        assert not marked_in(tmp_path / f"{name}.png").any(), name
    for name, image in {"grey": Image.new("L", (20, 20), 1), "red": palette(WHITE, RED, index=MARK | True)[0]}.items():
        image.save(tmp_path / f"{name}.png")
        assert marked_in(tmp_path / f"{name}.png").all(), name


def test_a_mask_is_turned_as_its_image_would_be(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(MARK, 1) * np.uint8(255)).save(tmp_path / "mask.png", exif=exif)
    np.testing.assert_array_equal(marked_in(tmp_path / "mask.png"), MARK)


def png_of_16_bit_colour(pixels):
    """Pillow reads it and writes none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_masks_that_say_too_much_are_refused(tmp_path):
    pages = [Image.fromarray(MARK), Image.fromarray(~MARK)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=r"pages\.tif has 2 pages; a mask is one image"):
        marked_in(tmp_path / "pages.tif")
    (tmp_path / "deep.png").write_bytes(png_of_16_bit_colour(np.dstack([MARK] * 3).astype(">u2")))
    with pytest.raises(DataError, match=r"deep\.png cannot be read \(a mask of 16 bits in several channels"):
        marked_in(tmp_path / "deep.png")


def test_masks_are_brought_to_size(tmp_path, save_image):
    large = np.zeros((40, 80), np.uint8)
    large[:20, :40] = 200
    save_image(large, "mask.png")
    masks = load_masks([tmp_path / "mask.png", None], TO)
    assert masks[0, :10, :10].all() and masks[0].sum() == 100 and not masks[1].any()
    with pytest.raises(DataError, match=r"lost\.png cannot be read"):
        load_masks([tmp_path / "lost.png"], TO)


@pytest.mark.parametrize(("n_marked", "is_marked"), [(1, False), (7, False), (8, True), (16, True)])
def test_a_place_is_marked_where_half_of_its_area_is(tmp_path, save_image, n_marked, is_marked):
    large = np.zeros((80, 80), np.uint8)
    large[8:12, 4:8] = 255 * (np.arange(16).reshape(4, 4) < n_marked)
    save_image(large, "mask.png")
    found = load_masks([tmp_path / "mask.png"], TO)[0]
    assert found[2, 1] == is_marked and found.sum() == is_marked


# -- figures


def test_a_perfect_map():
    figures = pixel_figures(MASKS.astype(np.float32), MASKS, 0.5)
    assert figures == {"pixel_auroc": 1.0, "pro": 1.0, "pixel_f1": 1.0}


def test_regions_count_alike_however_large():
    small_missed = MASKS.astype(np.float32)
    small_missed[0, 2:6, 2:6] = -1.0
    assert per_region_overlap(small_missed, MASKS) == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    random = rng.random((200, 20, 20)).astype(np.float32)
    assert per_region_overlap(random, np.tile(MASKS, (100, 1, 1))) == pytest.approx(0.15, abs=0.01)  # mean of 0…0.3


def test_overlap_by_hand_where_marked_and_other_places_tie():
    # 10 places beside two regions of 1 and 4 places; a threshold is passed by all that tie or by none
    mask = np.zeros((1, 1, 17), bool)
    mask[0, 0, 0] = mask[0, 0, 2:6] = True
    anomaly_map = np.zeros((1, 1, 17), np.float32)
    anomaly_map[0, 0, 0] = 3  # the small region stands out alone: overlap (1 + 0) / 2 at rate 0
    anomaly_map[0, 0, 2:4] = 2  # half of the large one ties with 3 of 12 places: (1 + 1/2) / 2 at rate 1/4
    anomaly_map[0, 0, 10:13] = 2
    # then all the rest ties: overlap 1 at rate 1. On a straight line between, at rate 0.3: 0.75 + 0.25 · 0.05 / 0.75
    at_limit = 0.75 + 0.25 * 0.05 / 0.75
    area = 0.25 * (0.5 + 0.75) / 2 + 0.05 * (0.75 + at_limit) / 2
    assert per_region_overlap(anomaly_map, mask) == pytest.approx(area / 0.3)


def test_a_map_that_says_nothing_is_at_chance():
    figures = pixel_figures(np.ones((2, 20, 20), np.float32), MASKS, 2.0)
    assert figures == {"pixel_auroc": 0.5, "pro": pytest.approx(0.15), "pixel_f1": 0.0}


def test_corners_join_regions_and_images_do_not():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, 1, 1] = masks[0, 2, 2] = masks[0, 3, 3] = True  # one region, of which a third is found
    masks[1, 1, 1] = True  # another one, though it lies upon the first in the pile; found
    maps = np.zeros((2, 8, 8), np.float32)
    maps[0, 1, 1] = maps[1, 1, 1] = 1
    # from (1/3 + 1) / 2 at rate 0 on a straight line to 1 at rate 1
    assert per_region_overlap(maps, masks) == pytest.approx(2 / 3 + 1 / 3 * 0.15)


def test_f1_is_at_the_threshold():
    maps = np.full((2, 20, 20), 0.3, np.float32)
    maps[0, 2:6, 2:6] = 1  # 16 of 80 marked pixels
    maps[1, :4, :4] = 1  # 16 beside
    assert pixel_figures(maps, MASKS, 0.5)["pixel_f1"] == pytest.approx(2 * 16 / (32 + 80))
    assert pixel_figures(maps, MASKS, 0.2)["pixel_f1"] == pytest.approx(2 * 80 / (800 + 80))
    assert pixel_figures(maps, MASKS, 1.0)["pixel_f1"] == 0  # at the threshold is not above it


def test_masks_that_mark_nothing_are_refused():
    with pytest.raises(DataError, match="mark no pixel"):
        pixel_figures(np.zeros((2, 20, 20), np.float32), np.zeros((2, 20, 20), bool), 0.5)


def test_an_anomaly_without_a_mask_may_be_anywhere_and_is_left_out(save_image):
    rng = np.random.default_rng(0)

    def normal():
        return (120 + rng.normal(0, 4, (20, 20))).clip(0, 255).astype(np.uint8)

    for i in range(30):
        save_image(normal(), f"train/good/{i:02}.png")
    for i in range(8):
        save_image(normal(), f"test/good/{i}.png")
        path = save_image(np.where(MARK, 250, normal()).astype(np.uint8), f"test/cut/{i}.png")
        if i < 3:
            save_image(MARK * np.uint8(255), f"ground_truth/cut/{i}_mask.png")
    root = path.parents[2]
    detector = alocc.train(root, config=with_settings(preset("robust"), ["networks.width=4"]), iterations=5)
    labelled = load_labelled(root, detector.image_format, ["good"])
    found = evaluate(detector, labelled, resamples=10).pixels

    has_mask = np.array([mask is not None for mask in labelled.images.masks])
    assert has_mask.sum() == 3 and labelled.is_anomalous.sum() == 8
    masks = np.where(has_mask[:, None, None], MARK, False)
    maps = detector.anomaly_map(labelled.images.images)
    known = has_mask | ~labelled.is_anomalous
    assert found == pytest.approx(pixel_figures(maps[known], masks[known], detector.map_threshold))
    as_if_normal = pixel_figures(maps, masks, detector.map_threshold)
    assert found["pixel_auroc"] > as_if_normal["pixel_auroc"] + 0.02


def test_pixels_of_a_class_are_compared_with_all_normal_images(save_image):
    rng = np.random.default_rng(0)

    def normal():
        return (120 + rng.normal(0, 4, (20, 20))).clip(0, 255).astype(np.uint8)

    marks = {"cut": MARK, "dent": MARK.T[::-1], "odd": MARK}
    for i in range(30):
        save_image(normal(), f"train/good/{i:02}.png")
    for i in range(6):
        path = save_image(normal(), f"test/good/{i}.png")
        for name, mark in marks.items():
            save_image(np.where(mark, 250, normal()).astype(np.uint8), f"test/{name}/{i}.png")
            save_image((mark & (name != "odd")) * np.uint8(255), f"ground_truth/{name}/{i}_mask.png")
    root = path.parents[2]
    detector = alocc.train(root, config=with_settings(preset("robust"), ["networks.width=4"]), iterations=5)
    labelled = load_labelled(root, detector.image_format, ["good"])
    found = {one.name: one.pixels for one in evaluate(detector, labelled, resamples=0).classes}
    assert found["good"] == found["odd"] == {}  # masks of odd mark nothing
    maps, classes = detector.anomaly_map(labelled.images.images), labelled.images.classes
    for name in ("cut", "dent"):
        chosen = np.isin(classes, ["good", name])
        masks = np.where((classes == name)[:, None, None], marks[name], False)
        assert found[name] == pixel_figures(maps[chosen], masks[chosen], detector.map_threshold)
