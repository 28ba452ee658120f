"""Networks and images → trained networks: phase after phase, with history, progress and checkpoints."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from alocc.errors import NonFiniteLossError, StoppedError
from alocc.stages import stage
from alocc.training.checkpoint import TrainingState
from alocc.training.history import Row
from alocc.training.phases import Images, Phase, begin, reconstructions, set_learning_rates
from alocc.training.plan import Plan
from alocc.training.ranks import Ranks
from alocc.training.step import Losses

if TYPE_CHECKING:
    from alocc.detector import Detector

CHECKPOINT_SECONDS = 30.0
COST: Mapping[str, float] = {"discrimination": 2.0, "places": 0.5}
"""How many times as long as one of the others an iteration of a phase takes, about."""
EVALUATIONS = 8
"""How often a training is evaluated."""
SHOWN = 8
"""Held-out images of which reconstructions are shown."""


class Moment(NamedTuple):
    """Where a training stands, for a progress bar."""

    phase: str
    iteration: int
    """Iterations done, over all phases of all folds."""
    planned: int
    """Iterations planned, over all phases of all folds."""
    losses: Mapping[str, float]
    left: float
    """Iterations that are left; those of other phases count as many times as they take longer than the present ones."""
    later: float = 0.0
    """About how many seconds everything after the iterations takes."""


@dataclass(frozen=True)
class Hooks:
    """What may look at a training, or ask it to stop, but never steers it."""

    progress: Callable[[Moment], None] | None = None
    """Called after each iteration."""
    resumed: Callable[[int], None] | None = None
    """Told how many iterations were done already, if the training goes on from a checkpoint."""
    started: Callable[[Plan, bool], None] | None = None
    """Told of the plan before the training starts, and whether it was finished already and runs again."""
    open_watch: Callable[[Plan], Callable[[Any], Mapping[str, float]]] | None = None
    """Makes a function that measures the detector as it stands now and then; the figures go into the history."""
    watch_every: int | None = None
    """Iterations between two watches; none: eight times through the training."""
    row: Callable[[int, int, Row], None] | None = None
    """Told of each row of the history: the fold, from 0 on, and the iterations done then, over all folds."""
    reconstructed: Callable[[int, Tensor, Tensor], None] | None = None
    """Shown what R makes of a few held-out images while it is trained, as often as a watch looks.

    The iterations done then, over all folds; the images and their reconstructions, (n, C, H, W) in [0, 1].
    """
    stop_requested: Callable[[], bool] | None = None
    """Asked after each iteration; true stops the training, with a checkpoint."""
    later: float = 0.0
    """Seconds that come after the iterations, as far as they are known; for ``progress``."""
    warned: Callable[[str], None] = warnings.warn
    """Told of checkpoints that are damaged, and where the training goes on instead."""
    written: Callable[[Detector], None] | None = None
    """Told of the detector once it is in its run folder; the training is finished when this returns."""


Measure = Callable[[], Mapping[str, float]]


def train_networks(
    plan: Plan,
    fold: int,
    state: TrainingState,
    images: Images,
    ranks: Ranks,
    hooks: Hooks,
    measures: Mapping[str, Measure],
    checkpoint: Path | None = None,
) -> None:
    """Train a fold's networks in place, from the start or from a checkpoint; the last step is the result.

    Args:
        state: the networks, their optimisers and random streams.
        ranks: the processes that train these networks; the first one's checkpoint and measures are those of all.
        measures: "watch", measured now and then, and "polarity", eight times in each phase that trains D: figures of
            the networks as they would score, for the history.
        checkpoint: where to keep the state; if the file is there, the training goes on from it.

    Raises:
        NonFiniteLossError: if a loss is infinite or not a number; the last checkpoint is from before that.
        StoppedError: if the hooks asked to stop.
    """
    phases, before = plan.phases[fold], plan.length_before(fold)
    own_length = plan.length_before(fold + 1) - before
    _resume(plan, fold, state, ranks, hooks, checkpoint)
    row_every, watch_every = max(10, min(100, own_length // 50)), hooks.watch_every or max(1, own_length // EVALUATIONS)
    started, saved = time.perf_counter() - state.seconds, state.seconds
    for phase in phases[state.phase :]:
        begun = begin(phase, plan.config, state, images, ranks)
        done_before = sum(earlier.iterations for earlier in phases[: state.phase])
        polarity_every, finished = max(1, phase.iterations // EVALUATIONS), False
        while not finished:
            set_learning_rates(phase, state)
            losses = _finite(begun.iterate(), phase, state, checkpoint)
            state.iteration += 1
            state.seconds = time.perf_counter() - started
            done = done_before + state.iteration
            state.history.add(losses)
            (hooks.progress or as_stage)(_moment(plan, fold, state, before + done, losses, hooks))
            row_due = done % row_every == 0
            finished = state.iteration == phase.iterations or (row_due and begun.may_stop())
            polarity_due = "D" in phase.trained and state.iteration % polarity_every == 0
            due = {"watch": done % watch_every == 0 or finished, "polarity": polarity_due}
            measured = [measure for name, measure in measures.items() if due[name]]
            if row_due or measured or finished:
                state.history.write_row(phase.name, done, _measured(state, measured))
                (hooks.row or _ignore)(fold, before + done, state.history.rows[-1])
            if hooks.reconstructed and due["watch"] and "R" in phase.trained:
                hooks.reconstructed(before + done, *reconstructions(state.networks["R"], images.held_out[:SHOWN]))
            if finished:
                state.phase, state.iteration = state.phase + 1, 0

            stopping = bool(hooks.stop_requested and hooks.stop_requested())
            save_due = state.seconds - saved > CHECKPOINT_SECONDS or finished or stopping
            if checkpoint and save_due and state.is_finite():
                state.save(checkpoint)
                saved = state.seconds
            if stopping:
                raise _stopped(plan, fold, before + done)


def _moment(
    plan: Plan, fold: int, state: TrainingState, done: int, losses: Mapping[str, float], hooks: Hooks
) -> Moment:
    now, *rest = [*plan.phases[fold][state.phase :], *(phase for phases in plan.phases[fold + 1 :] for phase in phases)]
    others = sum(phase.iterations * COST.get(phase.name, 1.0) for phase in rest) / COST.get(now.name, 1.0)
    left = now.iterations - state.iteration + others
    return Moment(now.name, done, plan.length, losses, left, hooks.later)


def as_stage(moment: Moment) -> None:
    """Show a moment where no hook wants it."""
    stage(moment.phase, moment.iteration, moment.planned)


def _ignore(*_: object) -> None:
    pass


def _stopped(plan: Plan, fold: int, done: int) -> StoppedError:
    where = f", in fold {fold + 1} of {len(plan.phases)}" if len(plan.phases) > 1 else ""
    return StoppedError(f"stopped after {done} of {plan.length} iterations{where}")


def _resume(plan: Plan, fold: int, state: TrainingState, ranks: Ranks, hooks: Hooks, checkpoint: Path | None) -> None:
    """Go on from the checkpoint, or write the first one."""
    if checkpoint:
        state.restore(checkpoint, hooks.warned)
        if not (state.phase or state.iteration):
            state.save(checkpoint)
    ranks.same(state)
    done = plan.length_before(fold) + sum(phase.iterations for phase in plan.phases[fold][: state.phase])
    has_begun = state.phase or state.iteration
    is_finished = state.phase == len(plan.phases[fold]) and fold + 1 < len(plan.phases)
    if has_begun and hooks.resumed and not is_finished:  # else the next fold says where it goes on
        hooks.resumed(done + state.iteration)


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


def _measured(state: TrainingState, measures: list[Measure]) -> dict[str, float]:
    """Figures of the networks as they would score; then they are put back as they were."""
    modes = {name: network.training for name, network in state.networks.items()}
    for network in state.networks.values():
        network.eval()
    figures = {name: value for measure in measures for name, value in measure().items()}
    for name, network in state.networks.items():
        network.train(modes[name])
    return figures
