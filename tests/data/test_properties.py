"""Properties of decoding and of sources, on images and names that hypothesis makes up."""

import csv
import io
import os
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from alocc.data import resizing, sources
from alocc.data.entries import shown
from alocc.data.images import ImageFormat, prepare_batch, read_header, read_image
from alocc.data.sources import open_source


def prepare(image, to):
    return prepare_batch(np.asarray(image)[None], to)[0]


SIDES = st.integers(1, 24)
FORMATS = st.builds(ImageFormat, st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3]))
TURNED = [None, np.fliplr, lambda a: np.rot90(a, 2), np.flipud, lambda a: a.swapaxes(0, 1), lambda a: np.rot90(a, -1),
          lambda a: np.rot90(a, 2).swapaxes(0, 1), np.rot90]  # fmt: skip
KEPT = {"L": ("PNG", "TIFF", "BMP"), "RGB": ("PNG", "TIFF", "BMP"), "P": ("PNG", "TIFF", "BMP"),
        "RGBA": ("PNG", "TIFF"), "I;16": ("PNG", "TIFF"), "CMYK": ("TIFF", "JPEG")}  # fmt: skip


@st.composite
def pictures(draw):
    """An image of some mode, a format that keeps it, an orientation, and what must be read: uint8, upright."""
    mode = draw(st.sampled_from(sorted(KEPT)))
    kind = draw(st.sampled_from(KEPT[mode]))
    channels = {"RGB": (3,), "RGBA": (4,), "CMYK": (4,)}.get(mode, ())
    shape = (draw(SIDES), draw(SIDES), *channels)
    if mode == "CMYK" and kind == "JPEG":
        pixels = np.full(shape, draw(st.integers(0, 255)), np.uint8)
    else:
        pixels = draw(arrays(np.uint16 if mode == "I;16" else np.uint8, shape))
    if mode == "P":
        image = Image.fromarray(pixels)
        palette = draw(arrays(np.uint8, 768))
        image.putpalette(palette.tobytes())
        expected = palette.reshape(256, 3)[pixels]
    else:
        image = Image.fromarray(pixels, **({"mode": "CMYK"} if mode == "CMYK" else {}))
        plain = {"I;16": lambda: (pixels // 257).astype(np.uint8), "RGBA": lambda: pixels[..., :3], "L": lambda: pixels}
        expected = plain.get(mode, lambda: np.asarray(image.convert("RGB")))()
    orientation = draw(st.integers(1, 8)) if kind in ("PNG", "TIFF") else 1
    turn = TURNED[orientation - 1]
    return image, kind, orientation, turn(expected) if turn else expected


@given(pictures())
@settings(max_examples=60)
def test_every_mode_comes_back_as_uint8_upright(picture):
    image, kind, orientation, expected = picture
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(
        buffer, kind, **({"exif": exif} if orientation > 1 else {}), **({"quality": 100} if kind == "JPEG" else {})
    )
    read = read_image(lambda: io.BytesIO(buffer.getvalue()), "it")
    assert read.dtype == np.uint8 and read.shape == expected.shape
    np.testing.assert_allclose(read.astype(int), expected, atol=6 if kind == "JPEG" else 0)
    header = read_header(lambda: io.BytesIO(buffer.getvalue()), "it")
    assert (header.height, header.width) == read.shape[:2]
    assert not header.grey or read.ndim == 2


images = st.tuples(SIDES, SIDES, st.sampled_from([(), (1,), (3,)])).flatmap(lambda s: arrays(np.uint8, (*s[:2], *s[2])))


@given(images, FORMATS)
@settings(max_examples=40)
def test_preparing_twice_changes_nothing_and_stays_in_range(image, to):
    once = prepare(image, to)
    assert once.shape == (to.channels, *to.size) and once.dtype == torch.uint8
    assert torch.equal(prepare(once.permute(1, 2, 0).numpy(), to), once)
    assert int(image.min()) - 1 <= int(once.min()) and int(once.max()) <= int(image.max()) + 1  # averages, rounded
    assert torch.equal(prepare(image / np.float32(255), to), once)


@given(images, FORMATS)
@settings(max_examples=40)
def test_strips_change_nothing(image, to):
    whole = prepare_batch(np.stack([image, 255 - image]), to)
    before = resizing.STRIP
    resizing.STRIP = max(1, image.shape[0] * image.shape[1] // 2)  # every image but one of a pixel is large now
    try:
        assert torch.equal(prepare_batch(np.stack([image, 255 - image]), to), whole)
    finally:
        resizing.STRIP = before


def encoded(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


stems = st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
names = st.lists(st.builds("{}.png".format, stems).filter(lambda name: name[0] not in "."), min_size=1, max_size=4,
                 unique_by=str.casefold)  # fmt: skip
GREY = ImageFormat(4, 5, 1)


@given(names)
@example(["CON.png", " spaced .png", "Größe 日本.png", "#page=1.png", "*.png"])
@settings(max_examples=25)
def test_a_folder_its_table_its_zip_and_its_tar_hold_the_same_images(found):
    with tempfile.TemporaryDirectory() as folder:
        root, kept = Path(folder) / "images", [name for name in found if len(name.encode()) < 200]
        root.mkdir()
        for i, name in enumerate(kept):
            (root / name).write_bytes(encoded(i))
        archive, tar, table = (Path(folder) / name for name in ("a.zip", "a.tar", "list.csv"))
        with zipfile.ZipFile(archive, "w") as zipped, tarfile.open(tar, "w") as tarred:
            for i, name in enumerate(kept):
                zipped.writestr(name, encoded(i))
                info = tarfile.TarInfo(name)
                info.size = len(encoded(i))
                tarred.addfile(info, io.BytesIO(encoded(i)))
        with table.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["path"], *([f"images/{name}"] for name in sorted(kept))])
        loaded = [open_source(place, "test").load(GREY) for place in (root, archive, tar, table)]
        expected = {name: i for i, name in enumerate(kept)}
        for images_of, place in zip(loaded, (root, archive, tar, root), strict=True):
            values = images_of.images[:, 0, 0, 0].tolist()
            assert dict(zip((name[len(str(place)) + 1 :] for name in images_of.names), values, strict=True)) == expected
            assert images_of.skipped == ()
        with zipfile.ZipFile(archive) as zipped:
            assert len(zipped.namelist()) == len(loaded[1])


@given(st.lists(st.booleans(), min_size=1, max_size=12).filter(any), st.integers(1, 5))
@settings(max_examples=25)
def test_batches_are_the_whole_and_nothing_is_lost(can_be_read, size):
    with tempfile.TemporaryDirectory() as folder:
        for i, good in enumerate(can_be_read):
            (Path(folder) / f"{i:02}.png").write_bytes(encoded(i) if good else b"")
        before, sources.reading.BATCH = sources.reading.BATCH, size
        try:
            source = open_source(folder, "test")
            batches, whole = list(source.batches(GREY)), source.load(GREY)
        finally:
            sources.reading.BATCH = before
    assert torch.equal(torch.cat([part.images for part in batches if len(part)]), whole.images)
    assert [name for part in batches for name in part.names] == list(whole.names)
    assert whole.images[:, 0, 0, 0].tolist() == [i for i, good in enumerate(can_be_read) if good]
    assert len(whole) + len(whole.skipped) == len(can_be_read)
    assert all(len(part) + len(part.skipped) <= size for part in batches)


@given(st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name))
def test_shown_names_are_text_and_text_is_shown_as_it_is(name):
    text = shown(os.fsdecode(name))
    assert text.encode("utf-8").decode("utf-8") == text
    try:
        assert text == name.decode("utf-8")
    except UnicodeDecodeError:
        assert "\\x" in text
