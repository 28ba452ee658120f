"""Everything that changes during a training, and its way to disk and back: safetensors files, no pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alocc.errors import ArtefactError, DamagedError
from alocc.storage import load_tensors, save_tensors
from alocc.training.batches import Batches
from alocc.training.history import History


def previous(path: Path) -> Path:
    """The checkpoint before this one."""
    return path.with_stem(f"{path.stem}-previous")


@dataclass
class TrainingState:
    """What a training needs to go on as if it had never stopped."""

    networks: Mapping[str, nn.Module]
    """R and D."""
    optimizers: Mapping[str, Optimizer]
    """One for each network of each phase, as "phase.network"."""
    streams: Mapping[str, torch.Generator]
    batches: Batches
    identity: Mapping[str, Any]
    """Config and data; a checkpoint of another training is refused."""
    phase: int = 0
    """Phases finished."""
    iteration: int = 0
    """Iterations done in the current phase."""
    seconds: float = 0.0
    """Time spent in training so far."""
    history: History = field(default_factory=History)

    def is_finite(self) -> bool:
        """Whether all weights are numbers."""
        return all(bool(value.isfinite().all()) for net in self.networks.values() for value in net.parameters())

    def save(self, path: Path) -> None:
        """Write a checkpoint; the one before it is kept.

        Raises:
            ArtefactError: if it cannot be written; the one before is there all the same.
        """
        try:
            if path.exists():
                path.replace(previous(path))
            save_tensors(path, *self.content())
        except OSError as error:
            raise ArtefactError(f"{path} cannot be written ({error.strerror or error})") from None
        except ArtefactError as error:
            remedy = "; the same command goes on from the checkpoint before" * previous(path).exists()
            raise ArtefactError(f"{error}{remedy}") from None

    def content(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds: tensors, which change with the training, and metadata."""
        tensors = {f"{name}.{key}": value for name, net in self.networks.items() for key, value in _tensors(net)}
        for name, optimizer in self.optimizers.items():
            for index, values in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{name}/{index}/{key}": value for key, value in values.items()}
        tensors |= {f"stream/{name}": stream.get_state() for name, stream in self.streams.items()}
        tensors["batches/pending"] = self.batches.pending
        return tensors, {
            "kind": "checkpoint",
            "identity": self.identity,
            "phase": self.phase,
            "iteration": self.iteration,
            "seconds": self.seconds,
            "history": [list(row.items()) for row in self.history.rows],  # an object's names would come back sorted
            "losses": [list(losses.items()) for losses in self.history.losses],
        }

    def restore(self, path: Path, warn: Callable[[str], None]) -> None:
        """Go back to the last checkpoint; if it is damaged, to the one before; if that is too, stay as it is.

        Args:
            path: of the last checkpoint.
            warn: told of a damaged one, which is removed, and of where the training goes on.

        Raises:
            ArtefactError: if a checkpoint cannot be read, or is of another training.
        """
        tensors, metadata = self.content()
        fresh = {name: value.detach().clone() for name, value in tensors.items()}
        found = [candidate for candidate in (path, previous(path)) if candidate.exists()]
        damaged: list[DamagedError] = []
        for candidate in found:
            try:
                self.take(candidate, *load_tensors(candidate))
                break
            except DamagedError as error:
                damaged.append(error)
        else:
            self.take(path, fresh, metadata)
        if damaged:
            is_lost = len(damaged) == len(found)
            remedy = "these networks start anew" if is_lost else "going on from the checkpoint before"
            warn("; ".join([*map(str, damaged), remedy]))
        for candidate in found[: len(damaged)]:  # else it would take the place of the one before
            with suppress(OSError):
                candidate.unlink()

    def take(self, path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Become what a checkpoint holds."""
        if metadata.get("identity") != self.identity:
            raise ArtefactError(
                f"{path} is the checkpoint of a training with another config or other data; "
                "give another --out, or --overwrite"
            )
        try:
            for name, net in self.networks.items():
                net.load_state_dict({key: tensors[f"{name}.{key}"] for key, _ in _tensors(net)})
            for name, optimizer in self.optimizers.items():
                state = _optimizer_state(optimizer, tensors, name)
                optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            for name, stream in self.streams.items():
                stream.set_state(tensors[f"stream/{name}"])
            self.batches.pending = tensors["batches/pending"]
            self.phase, self.iteration = metadata["phase"], metadata["iteration"]
            self.seconds = metadata["seconds"]
            self.history = History(list(map(dict, metadata["history"])), list(map(dict, metadata["losses"])))
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise DamagedError(f"{path} is damaged ({reason})") from None


def _tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    return list(network.state_dict().items())


def _optimizer_state(optimizer: Optimizer, tensors: Mapping[str, Tensor], name: str) -> dict[int, dict[str, Tensor]]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(f"optimizer/{name}/"):
            _, _, index, quantity = key.split("/")
            parameter = parameters[int(index)]
            # moments lie in memory as their parameter does: fused Adam relies on it
            like = torch.empty_like(parameter.detach() if value.shape == parameter.shape else value)
            state.setdefault(int(index), {})[quantity] = like.copy_(value)
    return state
