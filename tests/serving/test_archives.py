"""Zips of images, and what is made to look like them."""

import struct
import zipfile

import pytest

from alocc.errors import DataError
from alocc.serving.archives import MOST_DIRECTORY, Archive

MIB = 1 << 20


@pytest.fixture
def pack(tmp_path):
    """A zip of these members, name or ZipInfo → bytes."""

    def pack(members, compression=zipfile.ZIP_DEFLATED):
        path = tmp_path / "upload.zip"
        with zipfile.ZipFile(path, "w", compression) as file:
            for name, content in members:
                file.writestr(name, content)
        return path

    return pack


def opened(path, most=100 * MIB, each=MIB):
    return Archive(path, most, each)


def refusal(path, **limits):
    with pytest.raises(DataError) as error:
        opened(path, **limits)
    return str(error.value)


def test_images_come_in_the_order_of_the_zip_and_nothing_else_counts(pack):
    members = [("b.png", b"1"), ("folder/", b""), ("a/2.JPG", b"22"), ("notes.txt", b"x"), ("a/.hidden.png", b"x")]
    with opened(pack([*members, ("__MACOSX/._a.png", b"x"), ("inner.zip", b"x"), ("a/3.tif", b"333")])) as archive:
        assert archive.n_others == 2  # notes.txt and inner.zip
        assert list(archive) == ["b.png", "a/2.JPG", "a/3.tif"]
        assert [archive.read(i) for i in range(3)] == [b"1", b"22", b"333"]


def test_a_name_is_a_text_without_ways_out(pack):
    names = ["../../etc/a.png", "/root/b.png", "C:\\windows\\c.png", "x/./../d.png", "a\x1b[31m\u202e.png", "<b>.png"]
    shown = ["etc/a.png", "root/b.png", "windows/c.png", "x/d.png", "a\\x1b[31m\\u202e.png", "<b>.png"]
    with opened(pack([(name, b"x") for name in names])) as archive:
        assert list(archive) == shown


def test_what_is_no_zip_or_has_no_images_is_refused(pack, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 nothing of the kind")
    assert "no zip" in refusal(tmp_path / "a.zip")
    (tmp_path / "a.zip").write_bytes(b"")
    assert "no zip" in refusal(tmp_path / "a.zip")
    assert "no images" in refusal(pack([("a.txt", b"x")]))
    assert "no images" in refusal(pack([]))


def test_bombs_are_refused_by_what_they_say(pack):
    zeros = pack([(f"{i}.bmp", bytes(MIB)) for i in range(120)])
    assert "unpacks to 125,829,120 bytes" in refusal(zeros, most=1 << 30)  # over 100 MB and 100 times its own size
    assert "are allowed" in refusal(pack([(f"{i}.bmp", bytes(MIB)) for i in range(9)]), most=8 * MIB)


def test_a_member_that_is_not_as_large_as_it_says_is_damaged(pack):
    path = pack([("a.bmp", bytes(500_000)), ("b.bmp", b"good")])
    content = path.read_bytes()
    for lie in (10, 900_000):
        path.write_bytes(content.replace(struct.pack("<L", 500_000), struct.pack("<L", lie)))
        with opened(path) as archive:
            with pytest.raises(DataError, match="damaged"):
                archive.read(0)
            assert archive.read(1) == b"good"


def test_a_member_beyond_the_limit_is_named_and_the_others_are_read(pack):
    with opened(pack([("a.bmp", bytes(MIB + 1)), ("b.bmp", b"good")])) as archive:
        with pytest.raises(DataError, match=r"1,048,577 bytes; 1,048,576 are allowed"):
            archive.read(0)
        assert archive.read(1) == b"good"


def test_links_encrypted_members_and_rare_compression_are_refused(pack):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with opened(pack([(link, b"/etc/passwd"), ("good.png", b"good")])) as archive:
        with pytest.raises(DataError, match="link"):
            archive.read(0)
        assert archive.read(1) == b"good"
    for kind in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        with opened(pack([("a.png", b"x")], kind)) as archive, pytest.raises(DataError, match="deflate"):
            archive.read(0)
    path = pack([("a.png", b"x")])
    content = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + at] |= 1
    path.write_bytes(content)
    with opened(path) as archive, pytest.raises(DataError, match="encrypted"):
        archive.read(0)


def test_a_list_of_members_is_not_read_whatever_its_length(tmp_path):
    n = MOST_DIRECTORY + 1
    with (tmp_path / "a.zip").open("wb") as file:
        file.truncate(n)
        file.seek(n)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, n, 0, 0))
    assert "too many members" in refusal(tmp_path / "a.zip")


def test_many_images_are_too_many(pack, monkeypatch):
    monkeypatch.setattr("alocc.serving.archives.MOST_IMAGES", 5)
    assert "6 images; 5 are allowed" in refusal(pack([(f"{i}.png", b"") for i in range(6)]))


def test_members_that_share_their_bytes_count_each(pack):
    """Many entries of the list lead to the same compressed bytes: what they unpack to is what counts."""
    path = pack([("a.bmp", bytes(MIB))])
    content = path.read_bytes()
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entries = content[start:end] * 200
    path.write_bytes(content[:start] + entries)
    with path.open("ab") as file:
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 200, 200, len(entries), start, 0))
    assert "unpacks to" in refusal(path, most=1 << 30)
