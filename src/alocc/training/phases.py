"""The phases of a training: each binds networks, optimisers and random streams to its step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from alocc.config import (
    AdamConfig,
    AdversarialConfig,
    Config,
    DiscriminationConfig,
    OldIsGoldConfig,
    PlacesConfig,
    ReconstructionConfig,
)
from alocc.data.images import to_unit_range
from alocc.networks.architecture import Discriminator
from alocc.synthesis.corruption import corrupt, corrupt_each
from alocc.synthesis.deformation import jitter
from alocc.synthesis.negatives import make_negatives
from alocc.synthesis.pasting import pasted
from alocc.training.checkpoint import TrainingState
from alocc.training.ranks import Ranks
from alocc.training.step import (
    Draw,
    Losses,
    Update,
    adversarial_iteration,
    discrimination_iteration,
    old_is_gold_iteration,
    places_iteration,
    reconstruction_iteration,
)

STREAMS = ("batches", "noise", "latent_noise", "negatives", "places")
TRAINED = {
    "reconstruction": ("R",),
    "adversarial": ("R", "D"),
    "old_is_gold": ("D",),
    "discrimination": ("D",),
    "places": ("places",),
}
"""Phase → the networks that it updates."""
WARM_UP, START_DIVISOR, END_DIVISOR = 0.3, 25.0, 250_000.0
SCORED_AT_ONCE = 64

PhaseConfig = ReconstructionConfig | AdversarialConfig | OldIsGoldConfig | DiscriminationConfig | PlacesConfig


@dataclass(frozen=True)
class Phase:
    """One phase of a training."""

    name: str
    config: PhaseConfig
    young_r_after: int | None = None
    """Iterations after which a copy of R is kept, while it is still poor; OGNet's adversarial phase alone."""

    @property
    def iterations(self) -> int:
        """How many updates it makes, at most."""
        return self.config.iterations or 0

    @property
    def trained(self) -> tuple[str, ...]:
        """The networks that it updates."""
        return TRAINED[self.name]

    def batch_size(self, config: Config) -> int:
        """Images of an update."""
        own = self.config.batch_size if isinstance(self.config, PlacesConfig) else config.training.batch_size
        return own or 1


class Images(NamedTuple):
    """What a fold is trained with."""

    fit: Tensor
    """Normal images, (n, C, h, w), uint8 or float32 in [0, 1]."""
    held_out: Tensor
    """Normal images, (m, C, H, W), that no update sees; only the paper's stopping rule looks at them."""
    kinds: Sequence[str] = ()
    """Kinds of pseudo-anomaly that D meets in its own phase."""


class Begun(NamedTuple):
    """A phase that has begun."""

    iterate: Callable[[], Losses]
    """One step of training."""
    may_stop: Callable[[], bool] = lambda: False
    """Whether its own rule says that it is finished; asked now and then."""


def make_optimizers(phases: Iterable[Phase], networks: Mapping[str, nn.Module]) -> dict[str, Optimizer]:
    """One Adam for each network of each phase, as "phase.network"."""
    return {
        f"{phase.name}.{name}": _adam(networks[name].parameters(), phase.config.adam)
        for phase in phases
        for name in phase.trained
    }


def begin(phase: Phase, config: Config, state: TrainingState, images: Images, ranks: Ranks) -> Begun:
    """Put the networks into the phase's modes, and bind them to its step."""
    begun, n = _bound(phase, config, state, images, ranks), phase.batch_size(config)
    return Begun(lambda: ranks.mean_losses(begun.iterate(), n), lambda: ranks.any(begun.may_stop()))


def _bound(phase: Phase, config: Config, state: TrainingState, images: Images, ranks: Ranks) -> Begun:
    fabric, batch_size = ranks.fabric, phase.batch_size(config)
    networks = {name: fabric.setup_module(state.networks[name]) for name in state.networks if name != "R_old"}
    for name, network in networks.items():
        network.train(name in phase.trained)
    R, D = networks["R"], networks["D"]
    update = {name: _update_with(state.optimizers[f"{phase.name}.{name}"], ranks, batch_size) for name in phase.trained}
    streams = state.streams

    def draw_on_cpu() -> Tensor:
        return to_unit_range(images.fit[state.batches()])

    def draw() -> Tensor:
        return ranks.share(draw_on_cpu()).to(fabric.device)

    def draw_noisy() -> tuple[Tensor, Tensor]:
        x = draw_on_cpu().to(fabric.device)
        x_noisy = corrupt(x, config.corruption.sigma, streams["noise"])
        return ranks.share(x), ranks.share(x_noisy)

    def draw_latent_noise() -> Tensor:
        noise = torch.randn((batch_size, config.networks.latent_dim), generator=streams["latent_noise"])
        return ranks.share(noise).to(fabric.device)

    match phase.config:
        case ReconstructionConfig():
            return Begun(partial(reconstruction_iteration, R, draw_noisy, draw_latent_noise, update["R"]))
        case AdversarialConfig() as own:
            iterate = partial(adversarial_iteration, R, D, draw_noisy, update["R"], update["D"], config=own)
            iterate = partial(iterate, sees_pair=config.networks.discriminator_input == "pair")
            if phase.young_r_after:
                iterate = partial(_keeping_young_r, iterate, state, phase.young_r_after)
            return Begun(iterate, partial(_mse_is_below, own.stop_mse, state.networks["R"], images.held_out))
        case OldIsGoldConfig() as own:
            previous, R_old = partial(ranks.previous, batch_size=batch_size), state.networks["R_old"]
            return Begun(partial(old_is_gold_iteration, R, R_old, D, draw, previous, update["D"], config=own))
        case DiscriminationConfig() as own:
            draw_both = _drawing_negatives(own, draw_on_cpu, ranks, images, streams["negatives"])
            input_of = cast(Discriminator, state.networks["D"]).input_of
            return Begun(partial(discrimination_iteration, R, D, draw_both, update["D"], input_of=input_of))
        case PlacesConfig() as own:
            draw_pasted = _drawing_pasted(own.batch_size, images.fit, ranks, streams["places"])
            return Begun(partial(places_iteration, networks["places"], draw_pasted, update["places"]))


def _drawing_negatives(
    own: DiscriminationConfig, draw: Draw, ranks: Ranks, images: Images, stream: torch.Generator
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Batches of x⁺, jittered, and of x⁻, pseudo-anomalies of other images; with noise of the same strength on both."""
    sigma_max = own.sigma_max * contrast(images.fit)

    def draw_both() -> tuple[Tensor, Tensor]:
        x_normal, x_other = draw(), draw()
        x_normal = jitter(x_normal, stream) if own.jitter else x_normal
        x = torch.cat([x_normal, make_negatives(x_other, images.kinds, stream)])
        x_normal, x_negative = torch.split(corrupt_each(x, sigma_max, own.noisy, stream), len(x_normal))
        return ranks.share(x_normal).to(ranks.fabric.device), ranks.share(x_negative).to(ranks.fabric.device)

    return draw_both


def _drawing_pasted(
    batch_size: int, fit: Tensor, ranks: Ranks, stream: torch.Generator
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Batches of images with something pasted in, and which of their pixels that is."""

    def draw_pasted() -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(fit), (batch_size,), generator=stream)
        x, is_pasted = pasted(to_unit_range(fit[chosen]), stream)
        return ranks.share(x).to(ranks.fabric.device), ranks.share(is_pasted).to(ranks.fabric.device)

    return draw_pasted


def _keeping_young_r(iterate: Callable[[], Losses], state: TrainingState, old_after: int) -> Losses:
    """One iteration, and a copy of R while it is still poor: OGNet's R_old."""
    losses = iterate()
    if state.iteration + 1 == old_after:
        state.networks["R_old"].load_state_dict(state.networks["R"].state_dict())
    return losses


def _mse_is_below(stop_mse: float | None, R: nn.Module, held_out: Tensor) -> bool:
    """The paper's rule: ‖x − R(x)‖² < ρ, here per pixel and on normal images that no update has seen."""
    if stop_mse is None:
        return False
    x, x_hat = reconstructions(R, held_out)
    return float((x - x_hat).square().flatten(1).mean(1).mean()) < stop_mse


def reconstructions(R: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Images (n, C, H, W) in [0, 1], and what R makes of them as it stands; both on its device."""
    mode, device = R.training, next(R.parameters()).device
    R.eval()
    with torch.inference_mode():
        x = to_unit_range(images).to(device)
        x_hat = torch.cat([R(batch) for batch in torch.split(x, SCORED_AT_ONCE)])
    R.train(mode)
    return x, x_hat


def contrast(images: Tensor) -> float:
    """Mean standard deviation of the pixels within an image, over the first thousand images."""
    return float(to_unit_range(images[:1_000]).flatten(2).std(2).mean())


def set_learning_rates(phase: Phase, state: TrainingState) -> None:
    """Set the learning rate that the phase's schedule has for the coming iteration."""
    adam = phase.config.adam
    rate = adam.learning_rate
    if adam.schedule == "one-cycle":
        rate *= one_cycle(state.iteration / phase.iterations)
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


def _update_with(optimizer: Optimizer, ranks: Ranks, batch_size: int) -> Update:
    wrapped: Any = ranks.fabric.setup_optimizers(optimizer)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def update(loss: Tensor) -> None:
        wrapped.zero_grad()
        ranks.fabric.backward(ranks.weigh(loss, batch_size))
        ranks.sum_gradients(parameters)
        wrapped.step()

    return update
