"""Files are whole or not there, and a damaged one is refused without running anything from it."""

import contextlib
import pickle
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from alocc.errors import ArtefactError
from alocc.storage import load_tensors, replacing, save_tensors, write_text

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
