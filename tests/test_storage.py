"""Files are whole or not there, and a damaged one is refused without running anything from it."""

import contextlib
import json
import os
import pickle
import resource
import threading
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from alocc.errors import ArtefactError
from alocc.storage import MOST_HEADER, TEMPORARY, load_tensors, replacing, save_tensors, write_text

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.int64)}
METADATA = {"kind": "test", "numbers": [1, 0.1, None], "text": "σ"}


@contextlib.contextmanager
def disk_quota(n_bytes):
    """Let every file of this process grow to so many bytes only."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def saved(tmp_path):
    save_tensors(tmp_path / "x.safetensors", TENSORS, METADATA)
    return tmp_path / "x.safetensors"


def test_text_is_written_into_folders_that_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "σ = 0.3\n")
    assert path.read_bytes() == "σ = 0.3\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["c.txt"]


def test_file_is_not_there_before_it_is_whole(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # renaming works within one file system only
    assert path.read_text() == "new"


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_failure_while_writing_leaves_the_old_file_and_no_other(tmp_path, failure):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(failure), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise failure
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "write",
    [lambda path: write_text(path, "x" * 10_000), lambda path: save_tensors(path, TENSORS, {"x": "y" * 10_000})],
)
def test_full_disk_leaves_the_old_file_and_no_other(tmp_path, write):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with disk_quota(1_000), pytest.raises(ArtefactError, match=r"x\.txt cannot be written \(File too large"):
        write(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_in_the_files_place_is_refused(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(ArtefactError, match=r"x cannot be written"):
        write_text(tmp_path / "x", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(ArtefactError, match=r"y\.txt cannot be written"):
        write_text(tmp_path / "x" / "y.txt", "text")
    assert (tmp_path / "x").read_text() == "old"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_that_the_umask_says(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "x.txt", "new")
        save_tensors(tmp_path / "x.safetensors", TENSORS, METADATA)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o777])
def test_a_file_that_is_there_keeps_its_mode_and_is_never_open_to_others_in_between(tmp_path, mode):
    path = tmp_path / "x.txt"
    path.write_text("old")
    path.chmod(mode)
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == mode


def test_temporary_names_are_unpredictable_and_recognised(tmp_path):
    taken = set()
    for _ in range(10):
        with replacing(tmp_path / "x.y.txt") as temporary:
            temporary.write_text("new")
            assert TEMPORARY.fullmatch(temporary.name)[1] == "x.y.txt"
            taken.add(temporary.name)
    assert len(taken) == 10
    assert not any(str(os.getpid()) == name.split(".")[-2] for name in taken)


def test_a_link_in_the_temporary_files_place_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "victim").write_text("old")
    monkeypatch.setattr("secrets.token_hex", lambda n: "00" * n)  # somebody guessed it
    (tmp_path / f".x.txt.{'00' * 8}.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(ArtefactError, match=r"x\.txt cannot be written \(File exists\)"):
        write_text(tmp_path / "x.txt", "new")
    assert (tmp_path / "victim").read_text() == "old"
    assert (tmp_path / f".x.txt.{'00' * 8}.tmp").is_symlink()


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_one_and_its_file_is_written(tmp_path, there):
    (tmp_path / "disk").mkdir()
    if there:
        (tmp_path / "disk" / "x.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "disk" / "x.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "disk" / "x.txt").read_text() == "new"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["x.txt"]


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_text(tmp_path / "pipe", "through the pipe")
    reader.join()
    assert read == ["through the pipe"] and (tmp_path / "pipe").is_fifo()


def test_a_device_is_written_to_and_stays_one():
    write_text(Path(os.devnull), "into nothing")
    assert Path(os.devnull).is_char_device()


def test_tensors_and_metadata_come_back(saved):
    tensors, metadata = load_tensors(saved)
    assert metadata == METADATA
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).reshape(3, 4).T,
        torch.arange(48.0).reshape(1, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        torch.arange(4.0).expand(3, 4),
        torch.nn.Parameter(torch.ones(2)),
        torch.empty(0, 3),
        torch.tensor(7, dtype=torch.uint8),
    ],
    ids=["transposed", "channels last", "expanded", "parameter", "empty", "scalar"],
)
def test_tensors_of_any_layout_come_back(tmp_path, tensor):
    save_tensors(tmp_path / "x", {"x": tensor}, {})
    loaded = load_tensors(tmp_path / "x")[0]["x"]
    assert loaded.shape == tensor.shape
    assert torch.equal(loaded, tensor)


def test_same_content_is_the_same_file_in_any_order(saved, tmp_path):
    other = tmp_path / "y.safetensors"
    save_tensors(other, dict(reversed(TENSORS.items())), dict(reversed(METADATA.items())))
    assert other.read_bytes() == saved.read_bytes()


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ArtefactError, match=r"gone\.safetensors does not exist"):
        load_tensors(tmp_path / "gone.safetensors")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:7],
        lambda content: content[:40],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content.replace(b'"alocc"', b'"other"'),
        lambda content: content.replace(b"kind", b"ki\\d"),
        lambda content: b"these are words, not tensors",
    ],
    ids=["empty", "no header", "half a header", "truncated", "too long", "huge header", "foreign", "bad JSON", "text"],
)
def test_damaged_file_is_refused_by_name(saved, damage):
    damaged = damage(saved.read_bytes())
    assert damaged != saved.read_bytes()
    saved.write_bytes(damaged)
    with pytest.raises(ArtefactError, match=r"x\.safetensors is damaged or was not written by alocc"):
        load_tensors(saved)


def with_header(header, data=b""):
    """A file of tensors with any header."""
    return len(header).to_bytes(8, "little") + header + data


def header_of(metadata):
    return with_header(json.dumps({"__metadata__": {"alocc": metadata}}).encode())


ONE = '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (header_of("[1, 2]"), "its metadata is not an object"),
        (header_of('"words"'), "its metadata is not an object"),
        (header_of("null"), "its metadata is not an object"),
        (header_of('{"kind": "detector", "kind": "checkpoint"}'), "a name is there twice"),
        (header_of('{"config": {"seed": 1, "seed": 2}}'), "a name is there twice"),
        (with_header(f'{{"__metadata__":{{"alocc":"{{}}"}},{ONE},{ONE}}}'.encode(), b"1"), "a name is there twice"),
        (with_header(b'{"__metadata__":{"alocc":"{}","alocc":"{}"}}'), "a name is there twice"),
        (header_of(f'{{"config": {DEEP}}}'), "recursion"),
        (with_header(DEEP.encode()), "recursion"),
        (header_of(f'{{"alpha": {"9" * 5_000}}}'), "4300 digits"),
        (with_header(b'{"__metadata__":[]}'), "list indices"),
        (with_header(b'{"__metadata__":{"alocc":{"kind":"detector"}}}'), "JSON object must be str"),
        (with_header(b"[]"), "its metadata is not an object"),
        (with_header(b'{"__metadata__":{"alocc":"{}"},"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}', b"1"), ""),
        (with_header(b'{"__metadata__":{"alocc":"{}"},"a":{"dtype":"U8","shape":[9],"data_offsets":[0,1]}}', b"1"), ""),
        (with_header(b'{"__metadata__":{"alocc":"{}"},"a":{"dtype":"X9","shape":[1],"data_offsets":[0,1]}}', b"1"), ""),
        (
            with_header(
                b'{"__metadata__":{"alocc":"{}"},"a":{"dtype":"U8","shape":[0,9223372036854775809],"data_offsets":[0,0]}}'
            ),
            "",
        ),
    ],
)
def test_a_strangers_header_is_refused_in_one_line(tmp_path, damaged, reason):
    (tmp_path / "x.safetensors").write_bytes(damaged)
    with pytest.raises(ArtefactError, match=r"x\.safetensors is damaged or was not written by alocc \(.") as refused:
        load_tensors(tmp_path / "x.safetensors")
    assert reason in str(refused.value) and len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("header_size", [2**60, 2**64 - 1, 2**30, MOST_HEADER + 1])
def test_a_huge_header_is_refused_before_memory_is_spent(tmp_path, header_size):
    with (tmp_path / "x.safetensors").open("wb") as file:
        file.write(header_size.to_bytes(8, "little"))
        file.truncate(2**31)  # nothing on the disk
    tracemalloc.start()
    with pytest.raises(ArtefactError, match="it is no safetensors file"):
        load_tensors(tmp_path / "x.safetensors")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_large_file_of_others_is_refused_without_reading_it(tmp_path):
    with (tmp_path / "x.safetensors").open("wb") as file:
        file.write(with_header(b'{"a":{"dtype":"U8","shape":[2147483648],"data_offsets":[0,2147483648]}}'))
        file.truncate(file.tell() + 2**31)
    tracemalloc.start()
    with pytest.raises(ArtefactError, match=r"not written by alocc \('__metadata__'\)"):
        load_tensors(tmp_path / "x.safetensors")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_pipe_is_read_as_a_file_is(saved, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(saved.read_bytes()))
    writer.start()
    assert load_tensors(tmp_path / "pipe")[1] == METADATA
    writer.join()


def test_any_wrong_byte_in_the_header_gives_an_artefact_error_or_a_readable_file(saved):
    content = saved.read_bytes()
    refused = 0
    for position in range(8 + int.from_bytes(content[:8], "little")):
        saved.write_bytes(content[:position] + bytes([content[position] ^ 0x11]) + content[position + 1 :])
        try:
            load_tensors(saved)
        except ArtefactError:
            refused += 1
    assert refused > position / 3


def test_other_peoples_tensors_are_refused(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors")
    with pytest.raises(ArtefactError, match=r"not written by alocc"):
        load_tensors(tmp_path / "x.safetensors")


def test_folder_is_refused(tmp_path):
    with pytest.raises(ArtefactError, match="Is a directory"):
        load_tensors(tmp_path)


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("dump", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_pickles_are_refused_and_never_run(tmp_path, dump):
    dump(_Bomb(tmp_path / "exploded"), tmp_path / "x.safetensors")
    with pytest.raises(ArtefactError, match=r"damaged"):
        load_tensors(tmp_path / "x.safetensors")
    assert not (tmp_path / "exploded").exists()
    pickle.loads(pickle.dumps(_Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()  # so it would have been seen
