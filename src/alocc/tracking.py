"""A training shown in TensorBoard and MLflow while it runs. Only here are they used; neither can stop a training.

Both get the curves under the names that ``history.csv`` has, a later fold's with ``fold2/`` before them, by iteration
over all folds; reconstructions of held-out images now and then; their maps and the verdict of health in the end. A
training that goes on, goes on in the same log: no iteration is there twice.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from alocc.config import dump_config
from alocc.data.frame import thinned
from alocc.data.images import to_unit_range
from alocc.detector import Detector
from alocc.errors import ConfigError
from alocc.overlays import Pixels, heat, rgb
from alocc.storage import write_text
from alocc.training.folder import EVENTS, RunFolder
from alocc.training.history import Row
from alocc.training.loop import SHOWN, Hooks
from alocc.training.plan import Plan
from alocc.verdict import Health

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.tensorboard import SummaryWriter

SMALLEST, LARGEST = 96, 512
"""Pixels of the longer side of each image in a picture: small ones are drawn a whole number of times larger."""
PARAMETERS_AT_ONCE = 100
"""What an MLflow server takes in one request."""
MLFLOW_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Unless the environment has others: the training waits about 25 s for a server, and nobody else is told."""


class Log(Protocol):
    """Where a training is shown."""

    name: str

    def begin(self, plan: Plan) -> None: ...
    def add_figures(self, step: int, figures: Mapping[str, float]) -> None: ...
    def add_picture(self, step: int, name: str, picture: Pixels) -> None: ...
    def add_verdict(self, step: int, verdict: str, reasons: str) -> None: ...
    def close(self, finished: bool) -> None: ...


class TensorBoard:
    """Event files in ``tensorboard/`` of the run folder."""

    name = "TensorBoard"

    def __init__(self, folder: RunFolder) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError:
            raise ConfigError("--log tensorboard: install it with: pip install tensorboard") from None
        self.folder = folder.tensorboard
        self.writer: SummaryWriter | None = None

    def begin(self, plan: Plan) -> None:
        self.config = dump_config(plan.config)

    def add_figures(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer_from(step).add_scalar(name, value, step)
        self._writer_from(step).flush()  # so that a kill loses nothing that the next checkpoint has

    def add_picture(self, step: int, name: str, picture: Pixels) -> None:
        self._writer_from(step).add_image(name, picture, step, dataformats="HWC")

    def add_verdict(self, step: int, verdict: str, reasons: str) -> None:
        self._writer_from(step).add_text("health", f"**{verdict}**\n\n{reasons}", step)

    def close(self, finished: bool) -> None:
        if self.writer:
            self.writer.close()

    def _writer_from(self, step: int) -> SummaryWriter:
        """What writes; the first step of a training that goes on is where earlier events stop to count."""
        if not self.writer:
            from torch.utils.tensorboard import SummaryWriter

            goes_on = self.folder.is_dir() and any(EVENTS.fullmatch(path.name) for path in self.folder.iterdir())
            self.writer = SummaryWriter(self.folder, purge_step=step if goes_on else None)
            if not goes_on:
                self.writer.add_text("config", f"```toml\n{self.config}```", 0)
        return self.writer


class MLflow:
    """A run of the experiment ``alocc``, on the server of MLFLOW_TRACKING_URI or in ``mlflow/`` of the run folder."""

    name = "MLflow"

    def __init__(self, folder: RunFolder) -> None:
        for option, value in MLFLOW_SETTINGS.items():
            os.environ.setdefault(option, value)
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        try:
            import mlflow

            if not uri:  # a store of its own needs what mlflow-skinny does not bring
                import alembic  # noqa: F401
                import sqlalchemy  # noqa: F401
        except ImportError:
            raise ConfigError("--log mlflow: install it with: pip install mlflow-skinny sqlalchemy alembic") from None
        for library in ("mlflow", "alembic"):
            logging.getLogger(library).setLevel(logging.ERROR)
        self.folder, self.is_local = folder, not uri
        self.uri = uri or f"sqlite:///{folder.mlflow.absolute() / 'mlflow.db'}"
        if not uri and "?" in self.uri:  # what follows it would be options
            raise ConfigError(
                f"--log mlflow: a store cannot be below {folder.root.absolute()}, which has a ? in its name"
            )
        self.run_id, self.last_step = "", -1
        if uri:
            try:
                mlflow.MlflowClient(uri).search_experiments(max_results=1)
            except Exception as error:
                raise ConfigError(f"--log mlflow: MLFLOW_TRACKING_URI cannot be used ({_line(error)})") from None

    def begin(self, plan: Plan) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        if self.is_local:
            self.folder.mlflow.mkdir(exist_ok=True)
        self.client = MlflowClient(self.uri)
        self.run_id = self._unfinished_run() or self._new_run()
        values = plan.config.model_dump(mode="json") | {"data": plan.images.summary["data"]}
        parameters = [Param(name, str(value)) for name, value in _flat(values)]
        for start in range(0, len(parameters), PARAMETERS_AT_ONCE):
            self.client.log_batch(self.run_id, params=parameters[start : start + PARAMETERS_AT_ONCE])

    def _unfinished_run(self) -> str | None:
        """The run that the folder names, to go on with."""
        try:
            run = self.client.get_run(self.folder.mlflow_run.read_text(encoding="utf-8"))
        except Exception:  # there is none, or it is on another server
            return None
        if run.info.status == "FINISHED" or run.info.lifecycle_stage != "active":
            return None
        self.last_step = int(run.data.tags.get("alocc.step", -1))
        self.client.update_run(run.info.run_id, status="RUNNING")
        return str(run.info.run_id)

    def _new_run(self) -> str:
        found = self.client.get_experiment_by_name("alocc")
        place = (self.folder.mlflow.absolute() / "artifacts").as_uri() if self.is_local else None
        experiment = found.experiment_id if found else self.client.create_experiment("alocc", artifact_location=place)
        run_id = str(self.client.create_run(experiment, run_name=str(self.folder.root)).info.run_id)
        write_text(self.folder.mlflow_run, run_id)
        return run_id

    def add_figures(self, step: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric, RunTag

        if step > self.last_step:
            now = int(time.time() * 1000)
            metrics = [Metric(name, value, now, step) for name, value in figures.items()]
            self.client.log_batch(self.run_id, metrics, tags=[RunTag("alocc.step", str(step))])
            self.last_step = step

    def add_picture(self, step: int, name: str, picture: Pixels) -> None:
        self.client.log_image(self.run_id, Image.fromarray(picture), artifact_file=f"{name}/{step:07d}.png")

    def add_verdict(self, step: int, verdict: str, reasons: str) -> None:
        folder = self.folder
        for path in (folder.model, folder.config, folder.history, folder.summary, folder.health):
            self.client.log_artifact(self.run_id, str(path))
        self.client.set_tag(self.run_id, "health", verdict)
        self.client.set_tag(self.run_id, "mlflow.note.content", f"health: **{verdict}**\n\n{reasons}")

    def close(self, finished: bool) -> None:
        if self.run_id:
            self.client.set_terminated(self.run_id, "FINISHED" if finished else "KILLED")


LOGS: dict[str, Callable[[RunFolder], Log]] = {"tensorboard": TensorBoard, "mlflow": MLflow}
"""Name in ``--log`` → what it is."""


class Tracking:
    """What looks at a training and shows it in its logs; one that fails is left out from then on, with a warning."""

    def __init__(self, logs: Sequence[Log], warn: Callable[[str], None]) -> None:
        self.logs, self.warn = list(logs), warn

    def added_to(self, hooks: Hooks) -> Hooks:
        """The same hooks, and these logs."""
        if not self.logs:
            return hooks

        def started(plan: Plan, again: bool) -> None:
            if hooks.started:
                hooks.started(plan, again)
            self.plan = plan
            self._each(lambda log: log.begin(plan))

        def add_row(fold: int, done: int, row: Row) -> None:
            prefix = f"fold{fold + 1}/" if fold else ""
            names = [name for name in row if name not in ("phase", "iteration")]
            self._each(lambda log: log.add_figures(done, {prefix + name: float(row[name]) for name in names}))

        def add_reconstructions(done: int, x: Tensor, x_hat: Tensor) -> None:
            picture = side_by_side([list(map(rgb, images.float().cpu().numpy())) for images in (x, x_hat)])
            self._each(lambda log: log.add_picture(done, "reconstructions", picture))

        return replace(hooks, started=started, row=add_row, reconstructed=add_reconstructions)

    def end(self, detector: Detector, health: Health) -> None:
        """Show what came of the training, as of the step after its last iteration."""
        if self.logs:
            images, step = self.plan.images, self.plan.length + 1
            few = thinned(images.normals.images[images.split.held_out], SHOWN)
            plain = list(map(rgb, to_unit_range(few).numpy()))
            coloured = []
            for pixels, anomaly_map in zip(plain, detector.anomaly_map(few), strict=True):
                colour, opacity = heat(anomaly_map, detector.map_threshold)
                coloured.append((pixels * (1 - opacity) + colour * opacity).round().astype(np.uint8))
            picture = side_by_side([plain, coloured])
            reasons = "\n".join(f"* {finding.reason}; {finding.advice}" for finding in health.findings)
            self._each(lambda log: log.add_picture(step, "maps", picture))
            self._each(lambda log: log.add_verdict(step, health.verdict, f"{reasons}\n\n{health.meaning}".strip()))

    def close(self, finished: bool) -> None:
        """Let go of the logs."""
        self._each(lambda log: log.close(finished))

    def _each(self, show: Callable[[Log], None]) -> None:
        for log in [*self.logs]:
            try:
                show(log)
            except Exception as error:  # whatever a library or a server has: the training is worth more
                self.logs.remove(log)
                self.warn(f"{log.name} cannot be written to ({_line(error)}); the training goes on without it")


@contextmanager
def open_tracking(names: Sequence[str], root: Path, warn: Callable[[str], None]) -> Iterator[Tracking]:
    """Show a training in these logs while the block runs.

    Args:
        names: of :data:`LOGS`.
        root: the run folder.
        warn: told of a log that fails.

    Raises:
        ConfigError: if there is no such log, its library is not installed, or its server does not answer.
    """
    if unknown := [name for name in names if name not in LOGS]:
        raise ConfigError(f"--log must be {' or '.join(LOGS)}, got {unknown[0]!r}")
    tracking = Tracking([LOGS[name](RunFolder(root)) for name in names], warn)
    finished = False
    try:
        yield tracking
        finished = True
    finally:
        tracking.close(finished)


def side_by_side(rows: Sequence[Sequence[Pixels]]) -> Pixels:
    """One picture of rows of pictures (H, W, 3) that all have one size, see :data:`SMALLEST`."""
    height, width, _ = rows[0][0].shape
    scale = -(-SMALLEST // max(height, width))
    step = -(-max(height, width) // LARGEST)
    together = np.vstack([np.hstack(row) for row in rows]).repeat(scale, 0).repeat(scale, 1)
    return np.asarray(Image.fromarray(together).reduce(step))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _line(error: Exception) -> str:
    """What an error says, in one line that is not too long, without the password in an address."""
    text = re.sub(r"//[^/@\s]+@", "//", " ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"
