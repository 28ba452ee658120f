"""Everything that one server holds, and the one way from uploaded images to verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from alocc.serving.settings import Settings

if TYPE_CHECKING:
    from alocc.serving.history import History, ImageRow
    from alocc.serving.kept import Kept
    from alocc.serving.metrics import Metrics
    from alocc.serving.models import Models
    from alocc.serving.recalibration import Calibrations

Source = Literal["api", "page", "batch"]
"""Who asked for a verdict."""


@dataclass(frozen=True)
class Upload:
    """An image as a client gave it."""

    name: str
    """The client's; never a path of ours."""
    content: bytes


@dataclass(frozen=True)
class Options:
    """What a client asks for."""

    model: str | None = None
    """None: the first one."""
    alpha: float | None = None
    review_alpha: float | None = None
    """None: the model's."""
    map: bool = False
    overlay: bool = False
    """Whether a picture of the map, or of the image with the map over it, is wanted too."""
    keep: bool = False
    """Whether the image itself is kept."""
    source: Source = "api"


@dataclass(frozen=True)
class Judged:
    """A verdict on one image, or in ``row.error`` why there is none."""

    row: ImageRow
    threshold: float
    """The score above which its image is called an anomaly."""
    map: NDArray[np.float32] | None = None
    """(H, W), at the detector's size, if it was asked for or computed for regions."""
    map_png: bytes | None = None
    overlay: bytes | None = None
    """PNG pictures, if they were asked for."""


class Station:
    """What one server holds; its parts live as long as it does."""

    settings: Settings
    models: Models
    history: History
    kept: Kept
    calibrations: Calibrations
    metrics: Metrics

    async def judge(self, uploads: Sequence[Upload], options: Options) -> list[Judged]:
        """Verdicts on images, in their order; those that cannot be used say why in ``row.error``.

        Raises:
            BusyError: if they would have to wait too long.
            UnknownModelError: if there is no such model.
            ConfigError: if the model does not support the alphas.
        """
        raise NotImplementedError

    def judge_batch(
        self, uploads: Sequence[Upload], options: Options, batch_id: str, first_position: int
    ) -> list[ImageRow]:
        """The same for a worker in another thread, after everybody who waits for an answer.

        The rows are not written to the history: the worker does that, together with how far it is.
        """
        raise NotImplementedError


def station_of(request: Request) -> Station:
    """The station that answers a request; routes depend on it."""
    station: Station = request.app.state.station
    return station


def verdict_of(p_value: float, alpha: float, review_alpha: float | None) -> str:
    """``anomalous``, ``can't tell`` or ``normal``."""
    if p_value <= alpha:
        return "anomalous"
    return "can't tell" if review_alpha is not None and p_value <= review_alpha else "normal"
