"""The phases of a training as ready-to-call iterations: networks, optimisers and random streams bound to the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from alocc.config import (
    PHASES,
    AdamConfig,
    AdversarialConfig,
    Config,
    DiscriminationConfig,
    OldIsGoldConfig,
    ReconstructionConfig,
)
from alocc.data.corruption import corrupt
from alocc.data.images import to_unit_range
from alocc.training.checkpoint import TrainingState
from alocc.training.step import (
    Losses,
    Update,
    adversarial_iteration,
    discrimination_iteration,
    old_is_gold_iteration,
    reconstruction_iteration,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

STREAMS = ("batches", "noise", "latent_noise", "negatives")
WARM_UP, START_DIVISOR, END_DIVISOR = 0.3, 25.0, 250_000.0

PhaseConfig = ReconstructionConfig | AdversarialConfig | OldIsGoldConfig | DiscriminationConfig


@dataclass(frozen=True)
class Phase:
    """One phase of a training."""

    name: str
    config: PhaseConfig
    trained: tuple[str, ...]
    """Which of R and D it updates."""


def phases_of(config: Config) -> list[Phase]:
    """The phases that a config asks for, in order."""
    training = config.training
    trained = {"reconstruction": ("R",), "adversarial": ("R", "D"), "old_is_gold": ("D",), "discrimination": ("D",)}
    configs = ((name, getattr(training, name)) for name in PHASES)
    return [Phase(name, phase, trained[name]) for name, phase in configs if phase]


def make_optimizers(phases: Iterable[Phase], networks: Mapping[str, nn.Module]) -> dict[str, Optimizer]:
    """One Adam for each network of each phase, as "phase.network"."""
    return {
        f"{phase.name}.{name}": _adam(networks[name].parameters(), phase.config.adam)
        for phase in phases
        for name in phase.trained
    }


def begin(
    phase: Phase, config: Config, state: TrainingState, images: Tensor, kinds: Sequence[str], fabric: Fabric
) -> Callable[[], Losses]:
    """Put R and D into the phase's modes and return its iteration: each call is one step of training."""
    R, D = (fabric.setup_module(state.networks[name]) for name in ("R", "D"))
    R.train("R" in phase.trained)
    D.train("D" in phase.trained)
    sees_pair = config.networks.discriminator_input == "pair"
    update = {name: _update_with(state.optimizers[f"{phase.name}.{name}"], fabric) for name in phase.trained}

    def draw() -> Tensor:
        return to_unit_range(images[state.batches()]).to(fabric.device)

    def draw_noisy() -> tuple[Tensor, Tensor]:
        x = draw()
        return x, corrupt(x, config.corruption.sigma, state.streams["noise"])

    match phase.config:
        case ReconstructionConfig():
            return partial(
                reconstruction_iteration, R, draw_noisy, update["R"],
                latent_dim=config.networks.latent_dim, generator=state.streams["latent_noise"],
            )  # fmt: skip
        case AdversarialConfig(discriminator_updates=n_dis, mse_weight=mse_weight, fresh_batches=fresh_batches):
            return partial(
                adversarial_iteration, R, D, draw_noisy, update["R"], update["D"],
                sees_pair=sees_pair, n_dis=n_dis, mse_weight=mse_weight, fresh_batches=fresh_batches,
            )  # fmt: skip
        case OldIsGoldConfig(real_weight=real_weight, old_weight=old_weight):
            return partial(
                old_is_gold_iteration, R, state.networks["R_old"], D, draw, update["D"],
                real_weight=real_weight, old_weight=old_weight,
            )  # fmt: skip
        case DiscriminationConfig(jitter=jittered, sigma_max=sigma_max, noisy=noisy):
            return partial(
                discrimination_iteration, R, D, draw, update["D"],
                sees_pair=sees_pair, kinds=kinds, jittered=jittered,
                sigma_max=sigma_max * contrast(images), noisy=noisy, generator=state.streams["negatives"],
            )  # fmt: skip


def contrast(images: Tensor) -> float:
    """Mean standard deviation of the pixels within an image, over the first thousand images."""
    return float(to_unit_range(images[:1_000]).flatten(2).std(2).mean())


def set_learning_rates(phase: Phase, state: TrainingState) -> None:
    """Set the learning rate that the phase's schedule has for the coming iteration."""
    adam = phase.config.adam
    rate = adam.learning_rate
    if adam.schedule == "one-cycle":
        rate *= one_cycle(state.iteration / phase.config.iterations)
    for name in phase.trained:
        for group in state.optimizers[f"{phase.name}.{name}"].param_groups:
            group["lr"] = rate


def one_cycle(progress: float) -> float:
    """Factor of the peak learning rate at ``progress`` in [0, 1]: a cosine up for 30 %, then down to nearly 0.

    Smith & Topin 2018, with PyTorch's constants; the momenta stay constant.
    """
    if progress < WARM_UP:
        start, end, share = 1 / START_DIVISOR, 1.0, progress / WARM_UP
    else:
        start, end, share = 1.0, 1 / END_DIVISOR, (progress - WARM_UP) / (1 - WARM_UP)
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _adam(parameters: Iterable[nn.Parameter], config: AdamConfig) -> Optimizer:
    kind = AdamW if config.decoupled_decay else Adam
    parameters = list(parameters)
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    return kind(parameters, config.learning_rate, config.betas, weight_decay=config.weight_decay, fused=fused)


def _update_with(optimizer: Optimizer, fabric: Fabric) -> Update:
    wrapped: Any = fabric.setup_optimizers(optimizer)

    def update(loss: Tensor) -> None:
        wrapped.zero_grad()
        fabric.backward(loss)
        wrapped.step()

    return update
