"""Files that are whole or not there: written under a temporary name, then renamed. Never a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alocc.errors import ArtefactError

if TYPE_CHECKING:
    from torch import Tensor

METADATA_KEY = "alocc"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; it becomes ``path`` if the block ends well.

    Raises:
        ArtefactError: if the place cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    r"""Write a UTF-8 text file; what is no text, bytes of a file's name as a rule, is written ``\udcff``."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and JSON metadata into one safetensors file."""
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(contiguous, {METADATA_KEY: json.dumps(metadata, sort_keys=True)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote. Nothing in the file is ever executed.

    Raises:
        ArtefactError: if the file is missing, damaged, or not written by alocc.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()  # not mapped into memory: a mapped file that another program truncates kills us
        header_size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + header_size])
        metadata = json.loads(header["__metadata__"][METADATA_KEY])
        tensors = load(content)
    except FileNotFoundError:
        raise ArtefactError(f"{path} does not exist") from None
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read ({error.strerror})") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{path} is damaged or was not written by alocc ({error})") from None
    if not isinstance(metadata, dict):
        raise ArtefactError(f"{path} is damaged: its metadata is no object")
    return tensors, metadata
