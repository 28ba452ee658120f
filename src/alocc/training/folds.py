"""Networks of one fold, from fresh weights or a checkpoint to trained, in whatever process."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch

from alocc.data.sources import ImageSet
from alocc.detector import Detector
from alocc.errors import ConfigError
from alocc.networks.architecture import build_networks
from alocc.parts.places import Places
from alocc.scorer import Scorer
from alocc.seeding import generator
from alocc.training.batches import Batches
from alocc.training.calibrating import Kinds, polarity_measure
from alocc.training.checkpoint import TrainingState
from alocc.training.loop import Hooks, Measure, train_networks
from alocc.training.phases import STREAMS, Images, make_optimizers
from alocc.training.plan import Device, Plan
from alocc.training.ranks import Ranks, normalise_together

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from alocc.scoring.open import ExportedDetector


@dataclass(frozen=True)
class FoldTask:
    """What the networks of a fold are trained by."""

    plan: Plan
    fold: int
    images: Images
    kinds: Kinds
    """Of pseudo-anomaly."""
    checkpoint: Path | None = None
    """Where to keep the state; what is there is gone on with."""

    def for_others(self) -> FoldTask:
        """The same for another process: without the images that these networks are not trained with."""
        none = ImageSet(self.images.fit[:0].clone(), (), np.array([], np.str_))
        return replace(self, plan=replace(self.plan, images=replace(self.plan.images, normals=none)))


def train_fold(
    task: FoldTask,
    ranks: Ranks,
    hooks: Hooks,
    scorer: Scorer | None = None,
    measures: Mapping[str, Measure] | None = None,
) -> TrainingState:
    """Train the networks of a fold, from fresh weights or from their checkpoint on.

    Args:
        task: what to train.
        ranks: the processes that train them together; the first one alone reads and writes the checkpoint.
        hooks: of this process.
        scorer: into which they are put; none: one that nobody keeps.
        measures: to look at them by, beside the polarity.

    Raises:
        NonFiniteLossError, StoppedError, ArtefactError: as :func:`alocc.training.loop.train_networks`.
        ConfigError: if another of the processes has ended.
    """
    plan, measures = task.plan, dict(measures or {})
    checkpoint = task.checkpoint if ranks.rank == 0 else None
    scorer = scorer or Scorer(plan.config, plan.frame)
    state = initial_state(plan, task.fold, scorer, len(task.images.fit), ranks.fabric)
    if "d" in plan.config.scoring and ranks.rank == 0:
        measures["polarity"] = polarity_measure(plan, scorer, task.images.held_out, task.kinds)
    if ranks.size > 1:
        for network in state.networks.values():
            normalise_together(network, ranks)
        asked = hooks.stop_requested or (lambda: False)
        hooks = replace(hooks, stop_requested=lambda: ranks.any(asked()))
    train_networks(plan, task.fold, state, task.images, ranks, hooks, measures, checkpoint)
    return state


def initial_state(plan: Plan, fold: int, scorer: Scorer, n_images: int, fabric: Fabric) -> TrainingState:
    """Fresh networks, put into the scorer, with their optimisers and random streams."""
    config, seen, prefix = plan.config, plan.frame.thumbnail_format, f"fold{fold + 1}/" if fold else ""
    streams = {name: generator(config.seed, prefix + name) for name in STREAMS}
    R, D = build_networks(config.networks, seen.channels, seen.size, generator(config.seed, prefix + "weights"))
    scorer.add_networks(R, D)
    networks: dict[str, torch.nn.Module] = {"R": R, "D": D}
    if config.training.old_is_gold:
        networks["R_old"] = copy.deepcopy(R).eval()
    if any("places" in phase.trained for phase in plan.phases[fold]):
        networks["places"] = cast(Places, scorer.parts["places"]).network
        cast(Places, scorer.parts["places"]).network.initialise(streams["places"])
    scorer.compute_on(fabric.device)
    for network in networks.values():
        network.to(fabric.device)
    batches = Batches(n_images, config.training.batch_size or 1, streams["batches"])
    optimizers = make_optimizers(plan.phases[fold], networks)
    return TrainingState(networks, optimizers, streams, batches, {**plan.identity, "fold": fold})


def on_device(engine: Detector | ExportedDetector, device: Device) -> Detector | ExportedDetector:
    """The same detector, computing where that is asked for; an exported file computes on the CPU.

    Raises:
        ConfigError: if the machine has no such device.
    """
    on_cpu = device == "cpu" or (device == "auto" and not torch.accelerator.is_available())
    if on_cpu or not isinstance(engine, Detector):  # without Fabric, which takes a second to load
        return engine
    return engine.to(make_fabric(device, "32-true").device)


def make_fabric(
    device: Device, precision: Literal["auto", "32-true", "bf16-mixed"], number: int | None = None
) -> Fabric:
    """One device and one precision, through Lightning Fabric; of several GPUs the one with this number.

    Raises:
        ConfigError: if the machine has no such device.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    devices = 1 if number is None or n_gpus(device) == 0 else [number % n_gpus(device)]
    alone = LightningEnvironment()  # whatever started this process: its ranks are our own
    try:
        fabric = Fabric(accelerator=device, devices=devices, precision=precision, plugins=alone)  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"device {device} is not available on this machine ({error}); use --device auto") from None
    if number is not None and fabric.device.type == "cuda":
        torch.cuda.set_device(fabric.device)  # where NCCL keeps what it needs
    return fabric


def n_gpus(device: Device) -> int:
    """How many GPUs there are that this choice of a device would take."""
    return torch.cuda.device_count() if device in ("auto", "cuda") else 0
