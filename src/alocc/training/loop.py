"""Images and a config → trained networks: phase after phase, with history, progress and checkpoints."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from alocc.config import AdversarialConfig, Config
from alocc.data.images import to_unit_range
from alocc.detector import SCORING_BATCH
from alocc.errors import NonFiniteLossError, StoppedError
from alocc.model.networks import Discriminator, Reconstructor
from alocc.seeding import generator
from alocc.training.batches import Batches
from alocc.training.checkpoint import TrainingState
from alocc.training.phases import STREAMS, Phase, begin, make_optimizers, phases_of, set_learning_rates
from alocc.training.step import Losses

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKPOINT_SECONDS = 30.0
LOOKS = 8
"""How often a training is looked at."""


class Moment(NamedTuple):
    """Where a training stands, for a progress bar."""

    phase: str
    iteration: int
    """Iterations done, over all phases."""
    planned: int
    """Iterations planned, over all phases."""
    losses: Mapping[str, float]


@dataclass(frozen=True)
class Hooks:
    """What may look at a training, or ask it to stop, but never steers it."""

    progress: Callable[[Moment], None] | None = None
    """Called after each iteration."""
    resumed: Callable[[int], None] | None = None
    """Told how many iterations were done already, if the training goes on from a checkpoint."""
    watch: Callable[[], Mapping[str, float]] | None = None
    """Measures the networks as they stand; the figures go into the history."""
    watch_every: int | None = None
    """Iterations between two watches; none: eight times through the training."""
    stop_requested: Callable[[], bool] | None = None
    """Asked after each iteration; true stops the training, with a checkpoint."""


def train_networks(
    config: Config,
    R: Reconstructor,
    D: Discriminator,
    images: Tensor,
    held_out: Tensor,
    fabric: Fabric,
    *,
    kinds: Sequence[str] = (),
    polarity: Callable[[], float] | None = None,
    identity: Mapping[str, Any],
    streams: str = "",
    checkpoint: Path | None = None,
    hooks: Hooks | None = None,
) -> TrainingState:
    """Train R and D in place, from the start or from a checkpoint; the last step is the result.

    Args:
        images: normal images, (n, C, H, W), uint8 or float32 in [0, 1].
        held_out: normal images that no update sees; only the paper's stopping rule looks at them.
        kinds: kinds of pseudo-anomaly that D meets in its own phase.
        polarity: measures whether D means what it should, eight times in each phase that trains it; for the history.
        identity: what makes this training this one; a checkpoint of another is refused.
        streams: put before the names of the random streams, so that two trainings of one seed differ.
        checkpoint: where to keep the state; if the file is there, the training goes on from it.

    Raises:
        NonFiniteLossError: if a loss is infinite or not a number; the last checkpoint is from before that.
        StoppedError: if the hooks asked to stop.
    """
    hooks = hooks or Hooks()
    phases = phases_of(config)
    state = _initial_state(config, phases, {"R": R, "D": D}, len(images), fabric, identity, streams)
    if checkpoint and checkpoint.exists():
        state.restore(checkpoint)
    elif checkpoint:
        state.save(checkpoint)

    done = sum(phase.config.iterations for phase in phases[: state.phase]) + state.iteration
    if done and hooks.resumed:
        hooks.resumed(done)
    planned = sum(phase.config.iterations for phase in phases)
    row_every = max(10, min(100, planned // 50))
    watch_every = hooks.watch_every or max(1, planned // LOOKS)
    history = state.history
    started = time.perf_counter() - state.seconds
    saved = state.seconds

    for phase in phases[state.phase :]:
        iterate = begin(phase, config, state, images, kinds, fabric)
        done_before = sum(earlier.config.iterations for earlier in phases[: state.phase])
        looks_every = max(1, phase.config.iterations // LOOKS)
        finished = False
        while not finished:
            set_learning_rates(phase, state)
            losses = _finite(iterate(), phase, state, checkpoint)
            state.iteration += 1
            state.seconds = time.perf_counter() - started
            old = config.training.old_is_gold
            if old and phase.name == "adversarial" and state.iteration == old.old_after:
                state.networks["R_old"].load_state_dict(R.state_dict())  # while R is still poor
            done = done_before + state.iteration
            history.add(losses)
            if hooks.progress:
                hooks.progress(Moment(phase.name, done, planned, losses))

            row_due = done % row_every == 0
            finished = state.iteration == phase.config.iterations or (row_due and _stop_rule_met(phase, R, held_out))
            polarity_due = polarity is not None and "D" in phase.trained and state.iteration % looks_every == 0
            watch_due = hooks.watch is not None and (done % watch_every == 0 or finished)
            if row_due or watch_due or polarity_due or finished:
                watched = _look(R, D, hooks.watch if watch_due else None, polarity if polarity_due else None)
                history.write_row(phase.name, done, state.seconds, watched)
            if finished:
                state.phase, state.iteration = state.phase + 1, 0

            stopping = hooks.stop_requested is not None and hooks.stop_requested()
            due = state.seconds - saved > CHECKPOINT_SECONDS
            if checkpoint and (due or finished or stopping) and state.is_finite():
                state.save(checkpoint)
                saved = state.seconds
            if stopping:
                raise StoppedError(f"stopped after {done} of {planned} iterations")
    return state


def _initial_state(
    config: Config,
    phases: list[Phase],
    networks: Mapping[str, Reconstructor | Discriminator],
    n_images: int,
    fabric: Fabric,
    identity: Mapping[str, Any],
    prefix: str,
) -> TrainingState:
    if config.training.old_is_gold:
        networks = {**networks, "R_old": copy.deepcopy(networks["R"]).eval()}
    for network in networks.values():
        network.to(fabric.device)
    streams = {name: generator(config.seed, prefix + name) for name in STREAMS}
    assert config.training.batch_size is not None  # settled by the size of the images before training starts
    batches = Batches(n_images, config.training.batch_size, streams["batches"])
    return TrainingState(networks, make_optimizers(phases, networks), streams, batches, identity)


def _finite(losses: Losses, phase: Phase, state: TrainingState, checkpoint: Path | None) -> dict[str, float]:
    """Losses as numbers. Waits for the device, which is the price of stopping in time."""
    values = dict(zip(losses, torch.stack(list(losses.values())).detach().tolist(), strict=True))
    bad = [name for name, value in values.items() if not torch.tensor(value).isfinite()]
    if bad:
        kept = f"{checkpoint} holds the last good state" if checkpoint and checkpoint.exists() else "nothing was saved"
        raise NonFiniteLossError(
            f"{bad[0]} is {values[bad[0]]} at iteration {state.iteration + 1} of {phase.name}; {kept}; "
            f"lower training.{phase.name}.adam.learning_rate"
        )
    return values


def _look(
    R: Reconstructor,
    D: Discriminator,
    watch: Callable[[], Mapping[str, float]] | None,
    polarity: Callable[[], float] | None,
) -> dict[str, float]:
    """Measure the networks as they would score, and put them back as they were."""
    modes = R.training, D.training
    R.eval(), D.eval()
    figures = dict(watch()) if watch else {}
    if polarity:
        figures["polarity"] = polarity()
    R.train(modes[0]), D.train(modes[1])
    return figures


def _stop_rule_met(phase: Phase, R: Reconstructor, held_out: Tensor) -> bool:
    """The paper's rule: ‖x − R(x)‖² < ρ, here per pixel and on normal images that no update has seen."""
    if not isinstance(phase.config, AdversarialConfig) or phase.config.stop_mse is None:
        return False
    mode = R.training
    R.eval()
    with torch.inference_mode():
        errors = []
        for start in range(0, len(held_out), SCORING_BATCH):
            x = to_unit_range(held_out[start : start + SCORING_BATCH]).to(next(R.parameters()).device)
            errors.append((x - R(x)).square().flatten(1).mean(1))
        mse = float(torch.cat(errors).mean())
    R.train(mode)
    return mse < phase.config.stop_mse
