"""Files that are whole or not there: written under a temporary name, then renamed. Never a pickle."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alocc.errors import ArtefactError, DamagedError

if TYPE_CHECKING:
    from torch import Tensor

METADATA_KEY = "alocc"
CHECKSUM = "sha256"  # name of the tensor that holds the SHA-256 of all others and of the metadata
MOST_HEADER = 1 << 24  # bytes of names and metadata in a file of tensors, at most
TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]+\.tmp")  # name of a file under way, with the name that it will have


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; it becomes ``path`` if the block ends well.

    A file that is there keeps its mode, a link still points where it did, and what is no file, a pipe or a device, is
    written to itself. If ``durable``, the disk has the file before it replaces another, whatever becomes of the power.
    An ArtefactError if the place cannot be written to.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file() and not path.is_dir():
            yield path
            return
        target = Path(os.path.realpath(path))
        mode = stat.S_IMODE(target.stat().st_mode) if target.is_file() else None
        draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if mode is None else 0o600))
        temporary = draft
        yield temporary
        if mode is not None:
            temporary.chmod(mode)
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be written ({error.strerror or error})") from None
    finally:
        if temporary:
            with suppress(OSError):
                temporary.unlink()


def write_text(path: Path, text: str) -> None:
    r"""Write a UTF-8 text file; what is no text, bytes of a file's name as a rule, is written ``\udcff``."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def digest(path: Path) -> str:
    """SHA-256 of a file, by which what was made from it knows it again."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read ({error.strerror or error})") from None


def json_text(value: Any, indent: int = 2) -> str:
    """JSON of plain values, dataclasses, named tuples and paths; infinite and undefined figures become null."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        value = vars(value)
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and JSON metadata into one safetensors file, with a checksum."""
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(metadata, sort_keys=True)
    contiguous[CHECKSUM] = _checksum(contiguous, text)
    with replacing(path, durable=True) as temporary:
        temporary.write_bytes(save(contiguous, {METADATA_KEY: text}))


def _checksum(tensors: Mapping[str, Tensor], text: str) -> Tensor:
    """SHA-256 of tensors and metadata, (32,) uint8: safetensors itself does not notice bits that have changed."""
    import torch

    total = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return torch.tensor(list(total.digest()), dtype=torch.uint8)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote, executing nothing.

    Raises:
        DamagedError: if the file is damaged, or its checksum is another one.
        ArtefactError: if it is missing, or cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        with path.open("rb") as file:  # not mapped into memory: a mapped file that another program truncates kills us
            if not (start := file.read(8)):
                raise ValueError("the file is empty")
            if (header_size := int.from_bytes(start, "little")) > MOST_HEADER:
                raise ValueError("it is no safetensors file")
            start += (header := file.read(header_size))
            text = _parsed(header)["__metadata__"][METADATA_KEY]
            metadata = _parsed(text)
            tensors = load(start + file.read())
        checksum = tensors.pop(CHECKSUM, None)  # files of earlier versions have none
        if checksum is not None and checksum.tolist() != _checksum(tensors, text).tolist():
            raise ValueError("its checksum is another one")
    except FileNotFoundError:
        raise ArtefactError(f"{path} does not exist") from None
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read ({error.strerror})") from None
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DamagedError(f"{path} is damaged or was not written by alocc ({reason})") from None
    return tensors, metadata


def _parsed(text: str | bytes) -> dict[str, Any]:
    """A JSON object, in which nothing is there twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(values := dict(pairs)) < len(pairs):
            raise ValueError("a name is there twice")
        return values

    value = json.loads(text, object_pairs_hook=unique)
    if not isinstance(value, dict):
        raise ValueError("its metadata is not an object")
    return value
