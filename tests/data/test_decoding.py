"""What a file says of its pixels (sign, depth, polarity, planes, orientation, pages) decides how they are read."""

import io
import json
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from alocc.cli import main
from alocc.data.decoding import count_pages, read_header, read_image
from alocc.data.images import ImageFormat
from alocc.data.sources import open_source
from alocc.errors import DataError

BLOCKS = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 50, np.ones((8, 8), np.uint8))
"""16×24: six squares, each in a grey of its own."""
COLOUR = np.dstack([BLOCKS, 255 - BLOCKS, BLOCKS // 2])
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}
SUBFILE, BITS, PHOTOMETRIC, DESCRIPTION, ORIENTATION, PLANAR, EXTRA, FORMAT = 254, 258, 262, 270, 274, 284, 338, 339
XMP, DEPTH = 700, 32997


def page(array, more=None, data=None):
    """Pixels as they lie in a TIFF, and their tags."""
    height, width = array.shape[:2]
    n = array.shape[2] if array.ndim == 3 else 1
    tags = {256: width, 257: height, BITS: (8 * array.itemsize,) * n, 259: 1, PHOTOMETRIC: 2 if n > 2 else 1, 277: n,
            278: height, FORMAT: ({"u": 1, "i": 2, "f": 3}[array.dtype.kind],) * n}  # fmt: skip
    return array.tobytes() if data is None else data, tags | (more or {})


def tiff(*pages, order="<"):
    """An uncompressed TIFF, byte by byte: tags are SHORT, text is ASCII, bytes are BYTE, offsets and sizes are LONG."""
    out = bytearray((b"II" if order == "<" else b"MM") + struct.pack(f"{order}HL", 42, 0))
    link = 4
    for data, given in pages:
        n = given[277] if given.get(PLANAR) == 2 else 1  # strips: one a plane
        size = len(data) // n
        tags = {273: tuple(len(out) + i * size for i in range(n)), 279: (size,) * n} | given
        out += data + bytes(len(data) % 2)
        entries = b""
        for tag, value in sorted(tags.items()):
            if isinstance(value, str):
                kind, n, packed = 2, len(value) + 1, value.encode() + b"\0"
            elif isinstance(value, bytes):
                kind, n, packed = 1, len(value), value
            else:
                numbers = value if isinstance(value, tuple) else (value,)
                kind, n, letter = (4, len(numbers), "L") if tag in (273, 279) else (3, len(numbers), "H")
                packed = struct.pack(f"{order}{n}{letter}", *numbers)
            if len(packed) > 4:
                place = len(out)
                out += packed + bytes(len(packed) % 2)
                packed = struct.pack(f"{order}L", place)
            entries += struct.pack(f"{order}HHL", tag, kind, n) + packed.ljust(4, b"\0")
        out[link : link + 4] = struct.pack(f"{order}L", len(out))
        out += struct.pack(f"{order}H", len(tags)) + entries
        link = len(out)
        out += bytes(4)
    return bytes(out)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels, before=b"", behind=b""):
    """A grey PNG, with chunks before and behind its pixels."""
    height, width = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    parts = [header, before, chunk(b"IDAT", zlib.compress(rows)), behind, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def exif(packed, kind=3):
    """EXIF whose only tag is an orientation."""
    return b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", ORIENTATION, kind, 1) + packed.ljust(4, b"\0")[:4] + bytes(4)


def jpeg(tags):
    """The colour picture, with EXIF."""
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, "JPEG", quality=95, subsampling=0)
    content = buffer.getvalue()
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(tags) + 8) + b"Exif\0\0" + tags + content[2:]


def xmp(orientation):
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()


@pytest.fixture
def read(tmp_path):
    """Write a file and read it: its pixels, after its header was found to say the same."""

    def read_bytes(content, number=0):
        path = tmp_path / "a.tif"
        path.write_bytes(content)
        pixels = read_image(path, page=number)
        assert read_header(path, page=number)[:2] == pixels.shape[:2]
        in_memory = read_image(lambda: io.BytesIO(content), "it", number)
        np.testing.assert_array_equal(in_memory, pixels)  # an archive's member is read as the file is
        return pixels

    return read_bytes


@pytest.fixture
def refused(tmp_path):
    """Why a file is refused."""

    def reason(content, number=0):
        path = tmp_path / "a.tif"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.tif") as error:
            read_image(path, page=number)
        return str(error.value)

    return reason


@pytest.fixture
def inspected(monkeypatch, capsys):
    """What ``alocc inspect DATA --json`` says, or its error."""

    def run(data):
        monkeypatch.setattr(sys, "argv", ["alocc", "inspect", str(data), "--json"])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        assert (stopped.value.code or 0) in (0, 2) and "Traceback" not in err
        return json.loads(out) if out else err

    return run


# -- which way up


@pytest.mark.parametrize("mode", ["L", "I;16", "RGB", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize("compression", [None, "tiff_deflate"])
@pytest.mark.parametrize("orientation", TURNS)
def test_a_tiff_is_turned_alike_compressed_or_not(tmp_path, read, mode, compression, orientation):
    image, expected = {
        "L": lambda: (Image.fromarray(BLOCKS), BLOCKS),
        "I;16": lambda: (Image.fromarray(BLOCKS.astype(np.uint16) * 257), BLOCKS),
        "RGB": lambda: (Image.fromarray(COLOUR), COLOUR),
        "RGBA": lambda: (Image.fromarray(np.dstack([COLOUR, BLOCKS + 1])), COLOUR),
        "P": lambda: (Image.fromarray(COLOUR).quantize(8), None),
        "CMYK": lambda: (Image.fromarray(COLOUR).convert("CMYK"), COLOUR),
    }[mode]()
    expected = np.asarray(image.convert("RGB")) if expected is None else expected
    image.save(tmp_path / "b.tif", compression=compression, tiffinfo={ORIENTATION: orientation})
    np.testing.assert_array_equal(read((tmp_path / "b.tif").read_bytes()), TURNS[orientation](expected))


@pytest.mark.parametrize("orientation", TURNS)
def test_a_jpeg_and_a_webp_are_turned_as_their_exif_says(tmp_path, read, orientation):
    tags = exif(struct.pack("<H", orientation))
    found = read(jpeg(tags)).astype(int)
    assert found.shape == TURNS[orientation](COLOUR).shape and np.abs(found - TURNS[orientation](COLOUR)).max() <= 12
    Image.fromarray(COLOUR).save(tmp_path / "b.webp", lossless=True, exif=b"Exif\0\0" + tags)
    np.testing.assert_array_equal(read((tmp_path / "b.webp").read_bytes()), TURNS[orientation](COLOUR))


@pytest.mark.parametrize("orientation", TURNS)
def test_a_png_is_turned_by_exif_and_xmp_before_and_behind_its_pixels(read, orientation):
    marks = [
        chunk(b"eXIf", exif(struct.pack("<H", orientation))),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(orientation)),
    ]
    for mark in marks:
        for content in (png(BLOCKS, before=mark), png(BLOCKS, behind=mark)):
            np.testing.assert_array_equal(read(content), TURNS[orientation](BLOCKS))


def test_a_tiff_is_turned_by_xmp_alone(read):
    np.testing.assert_array_equal(read(tiff(page(BLOCKS, {XMP: xmp(6)}))), TURNS[6](BLOCKS))


@pytest.mark.parametrize(
    "tags",
    [exif(struct.pack("<H", n)) for n in (0, 9, 65_535)]
    + [exif(b"6\0", 2), exif(b"\x06", 1), b"II*\0\xff\xff\xff\xff", b"no EXIF"],
    ids=["0", "9", "65535", "text", "byte", "leads nowhere", "damaged"],
)
def test_what_is_no_orientation_turns_nothing(tmp_path, read, inspected, tags):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd EXIF
        assert read(jpeg(tags)).shape == COLOUR.shape
        assert read(png(BLOCKS, chunk(b"eXIf", tags))).shape == BLOCKS.shape
        (tmp_path / "a.tif").unlink()
        (tmp_path / "a.jpg").write_bytes(jpeg(tags))
        assert inspected(tmp_path)["image_format"] == {"height": 16, "width": 24, "channels": 3}


@pytest.mark.parametrize("orientation", [0, 9, "6", b"\x06"], ids=str)
def test_what_is_no_orientation_turns_no_tiff(read, orientation):
    np.testing.assert_array_equal(read(tiff(page(BLOCKS, {ORIENTATION: orientation}))), BLOCKS)


# -- sign, depth, polarity, planes


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("dtype", "reason"),
    [
        ("i1", "signed pixels"),
        ("i2", "signed pixels"),
        ("i4", "signed pixels"),
        ("u4", "32-bit pixels"),
        ("u8", "64-bit pixels"),
        ("f2", "floating-point pixels"),
        ("f4", "floating-point pixels"),
        ("f8", "floating-point pixels"),
    ],
)
def test_pixels_whose_range_nobody_knows_are_refused(refused, order, dtype, reason):
    pixels = BLOCKS.astype(order + dtype)
    assert f"cannot be read ({reason} have no known range; save it with 8 or 16 bits" in refused(
        tiff(page(pixels), order=order)
    )


def test_16_bit_grey_that_counts_from_white_is_inverted_back(read, refused):
    white = 65_535 - BLOCKS.astype(np.uint16) * 257
    np.testing.assert_array_equal(read(tiff(page(255 - BLOCKS, {PHOTOMETRIC: 0}))), BLOCKS)
    np.testing.assert_array_equal(read(tiff(page(white, {PHOTOMETRIC: 0}))), BLOCKS)
    np.testing.assert_array_equal(read(tiff(page(BLOCKS.astype(">u2") * 257), order=">")), BLOCKS)
    assert "cannot be read (unknown pixel mode)" in refused(
        tiff(page(white.astype(">u2"), {PHOTOMETRIC: 0}), order=">")
    )


def test_12_bits_fill_the_range(read):
    values = [0, 16, 17, 2_048, 4_094, 4_095]
    packed = bytes(
        byte
        for a, b in zip(values[::2], values[1::2], strict=True)
        for byte in (a >> 4, (a & 15) << 4 | b >> 8, b & 255)
    )
    # ⌊(16 v + ⌊v / 256⌋) / 257⌋: 4,095 is white as 65,535 is
    content = tiff(page(np.zeros((1, 6), np.uint16), {BITS: 12}, packed))
    assert read(content).tolist() == [[0, 0, 1, 127, 254, 255]]


def test_8_bits_in_separate_planes_are_read_and_16_are_refused(read, refused):
    planes = np.moveaxis(COLOUR, 2, 0)
    np.testing.assert_array_equal(read(tiff(page(COLOUR, {PLANAR: 2}, planes.tobytes()))), COLOUR)
    wide = planes.astype(np.uint16) * 257
    assert "16-bit pixels in separate planes" in refused(
        tiff(page(np.moveaxis(wide, 0, 2), {PLANAR: 2}, wide.tobytes()))
    )


@pytest.mark.parametrize("extra", [1, 2], ids=["associated", "unassociated"])
def test_grey_with_alpha_is_grey(read, extra):
    both = np.dstack([BLOCKS, np.full_like(BLOCKS, 255)])
    np.testing.assert_array_equal(read(tiff(page(both, {EXTRA: extra}))), BLOCKS)


# -- the reason is true


def test_an_image_that_cannot_be_read_is_not_called_no_image(refused):
    five = page(np.dstack([BLOCKS] * 5), {PHOTOMETRIC: 1})
    alpha = page(np.dstack([BLOCKS] * 2).astype(np.uint16), {EXTRA: 2})
    comment = bytearray(chunk(b"tEXt", b"Comment\0hello"))
    comment[-1] ^= 1
    for content in (tiff(five), tiff(alpha), png(BLOCKS, bytes(comment)), tiff(page(BLOCKS))[:200], png(BLOCKS)[:20]):
        reason = refused(content)
        assert "a.tif cannot be read (" in reason and "is not a" not in reason
    assert "broken PNG file" in refused(png(BLOCKS, bytes(comment)))
    assert "is not a PNG, JPEG, BMP, TIFF, WEBP image" in refused(b"words, not pixels")


# -- pages


def values(images):
    return images.images[:, 0, 0, 0].tolist()


def flat(value, dtype=np.uint8):
    return np.full((16, 16), value, dtype)


GREY = ImageFormat(16, 16, 1)


def test_reduced_pages_and_masks_are_no_images(tmp_path, inspected):
    (tmp_path / "a.tif").write_bytes(
        tiff(
            page(flat(10)),
            page(flat(11)[:8, :8], {SUBFILE: 1}),
            page(flat(255), {SUBFILE: 4, PHOTOMETRIC: 4}),
            page(flat(255), {SUBFILE: 4}),
            page(flat(20), {SUBFILE: 2}),
            page(flat(12), {255: 2}),
            page(flat(13), {PHOTOMETRIC: 4}),
            page(flat(30), {SUBFILE: "odd"}),
        )
    )
    images = open_source(tmp_path, "test").load(GREY)
    assert values(images) == [10, 20, 30] and images.skipped == ()
    assert [name.rpartition("/")[2] for name in images.names] == [f"a.tif#page={i}" for i in range(3)]
    assert inspected(tmp_path / "a.tif")["n_images"] == 3


def test_a_thumbnail_alone_is_an_image(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(page(flat(10), {SUBFILE: 1})))
    images = open_source(tmp_path, "test").load(GREY)
    assert values(images) == [10] and images.names == [f"{tmp_path}/a.tif"]


def test_a_page_that_cannot_be_used_costs_no_other_one(tmp_path, inspected):
    (tmp_path / "a.tif").write_bytes(
        tiff(page(flat(10)), page(np.dstack([flat(1)] * 5), {PHOTOMETRIC: 1}), page(flat(1, np.int16)), page(flat(20)))
    )
    images = open_source(tmp_path, "test").load(GREY)
    assert values(images) == [10, 20]
    assert [item.name.rpartition("#")[2] for item in images.skipped] == ["page=1", "page=2"]
    assert "unknown pixel mode" in images.skipped[0].reason and "signed pixels" in images.skipped[1].reason
    found = inspected(tmp_path)
    assert (found["n_images"], len(found["skipped"])) == (2, 2)


@pytest.mark.parametrize("warned", ["ignore", "error"])
def test_pages_behind_a_damaged_one_are_not_passed_over_in_silence(tmp_path, warned):
    content = tiff(page(flat(10)), page(flat(20)), page(flat(30)))
    with warnings.catch_warnings():
        warnings.simplefilter(warned)  # Pillow warns of tags that end early
        (tmp_path / "a.tif").write_bytes(content[:-100])  # in the tags of the last page
        images = open_source(tmp_path, "test").load(GREY)
    assert values(images) == [10, 20] and [item.name for item in images.skipped] == [f"{tmp_path}/a.tif#page=2"]


def test_pages_in_a_circle_are_read_once(tmp_path):
    content = bytearray(tiff(page(flat(10)), page(flat(20))))
    content[-4:] = content[4:8]
    (tmp_path / "a.tif").write_bytes(content)
    assert values(open_source(tmp_path, "test").load(GREY)) == [10, 20]


@pytest.mark.parametrize(
    "more",
    [{DESCRIPTION: "ImageJ=1.53\nimages=12\nslices=12\n"}, {DESCRIPTION: '{"shape": [12, 16, 16], "truncated": true}'},
     {DEPTH: 12}],
    ids=["ImageJ", "shape", "depth"],
)  # fmt: skip
def test_a_stack_behind_one_page_is_refused_and_not_its_first_slice_taken(tmp_path, refused, inspected, more):
    stack = np.stack([flat(i) for i in range(12)])
    content = tiff(page(stack[0], more, stack.tobytes()))
    assert "a stack of images on one page" in refused(content)
    with pytest.raises(DataError, match="a stack of images"):
        read_image(lambda: io.BytesIO(content), "in an archive")
    assert "a stack of images on one page" in inspected(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_bytes(tiff(page(flat(10))))
    (skipped,) = inspected(tmp_path)["skipped"]
    assert "a.tif cannot be read (a stack of images on one page" in skipped["reason"]


def test_a_description_alone_makes_no_stack(read):
    one = {DESCRIPTION: "ImageJ=1.53\nimages=12\n"}  # a slice that another program saved
    np.testing.assert_array_equal(read(tiff(page(BLOCKS, one))), BLOCKS)
    np.testing.assert_array_equal(read(tiff(page(BLOCKS, one), page(BLOCKS // 2))), BLOCKS)
    single = {DESCRIPTION: "ImageJ=1.53\nimages=1\n"}
    np.testing.assert_array_equal(read(tiff(page(BLOCKS, single, BLOCKS.tobytes() * 3))), BLOCKS)


def test_pages_of_what_is_no_tiff_are_one(tmp_path):
    (tmp_path / "a.tif").write_bytes(png(BLOCKS))
    assert count_pages(tmp_path / "a.tif") == count_pages(tmp_path / "gone.tif") == 1
    assert count_pages(lambda: io.BytesIO(tiff(page(BLOCKS), page(BLOCKS)))) == 2


def test_a_forked_process_decodes_large_images_too(tmp_path):
    Image.new("L", (2_100, 2_100), 7).save(tmp_path / "large.png")
    script = """if True:
        import os, signal, sys
        from alocc.data.decoding import ImageFormat, read_brought_to
        read = lambda: read_brought_to(sys.argv[1], None, 0, ImageFormat(2, 2, 1))[0]
        assert (read() == 7).all()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(0 if (read() == 7).all() else 1)
        sys.exit(os.waitpid(child, 0)[1])
    """
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "large.png")]
    assert subprocess.run(command, timeout=60).returncode == 0
