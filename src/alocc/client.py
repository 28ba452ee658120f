"""A client of the server that ``alocc serve`` starts; in the clone, ``pip install '.[client]'``, httpx alone.

::

    with Client("http://127.0.0.1:8000", token=TOKEN) as client:
        answer = client.score(["part-17.png", "part-18.png"])
        for image in answer.images:
            print(image.name, image.verdict, image.p_value)
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx

from alocc.errors import AloccError, BusyError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Image = str | Path | bytes | tuple[str, bytes] | NDArray[np.uint8]
    """A file, the bytes of one, such bytes with a name, or pixels (H, W) or (H, W, 3)."""

BUSY = 429
TOGETHER = 64
"""Images that a server takes in one request, unless it was told otherwise."""
ZIP = {"Content-Type": "application/zip"}
FINISHED = ("done", "failed", "cancelled")


class AnswerError(AloccError):
    """The server answered that it does not do what was asked for.

    Args:
        status: HTTP's number of the reason.
        message: the server's own words.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Box:
    """A box in the image's own pixels; right and bottom are the first ones beyond it."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Region:
    """A place that is unusual."""

    box: Box
    area: int
    peak: float
    p_value: float
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What the server says of one image."""

    id: str
    """Of its row in the history."""
    name: str
    verdict: str | None
    """"normal", "can't tell" or "anomalous"; none if the image cannot be used."""
    anomaly_score: float | None
    p_value: float | None
    width: int | None
    height: int | None
    regions: Sequence[Region]
    """The most unusual first; none of an image that is called normal."""
    map: bytes | None
    overlay: bytes | None
    """PNG files, if they were asked for."""
    error: str | None
    """Why the image cannot be used."""


@dataclass(frozen=True)
class Answer:
    """Verdicts in the order of the images, and what they were made by."""

    model: str
    version: str
    calibration: int
    alpha: float
    review_alpha: float | None
    threshold: float | None
    images: Sequence[Verdict]


class Client:
    """A connection to a server, to be used by one thread at a time.

    Args:
        address: of the server.
        token: if it asks for one.
        timeout: seconds after which a request that is not answered fails.
        patience: seconds for which a busy server is asked again.
    """

    def __init__(
        self,
        address: str = "http://127.0.0.1:8000",
        token: str | None = None,
        timeout: float = 60,
        patience: float = 30,
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=address, headers=headers, timeout=timeout)
        self._patience = patience

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._http.close()

    def score(self, images: Image | Sequence[Image], **options: Any) -> Answer:
        """Verdicts on one image or several, which are sent 64 at a time, or as many as the server takes.

        Args:
            images: see :data:`Image`.
            options: ``model``, ``alpha``, ``review_alpha``, ``map``, ``overlay``, ``keep``, as the server takes them.

        Raises:
            AnswerError: if not one image of a request can be used, or an option is wrong.
            BusyError: if the server had too much to do all the time.
            DataError: if a file cannot be read.
        """
        several = [images] if not isinstance(images, list | tuple) or _is_named(images) else images
        files = [("images", _upload(image, i)) for i, image in enumerate(several)]
        answers = [
            answer
            for start in range(0, len(files) or 1, TOGETHER)
            for answer in self._answers(files[start : start + TOGETHER], _given(options))
        ]
        return replace(answers[-1], images=[image for answer in answers for image in answer.images])

    def _answers(self, files: list[Any], options: Mapping[str, Any]) -> list[Answer]:
        """Answers about some images: in halves, where they are more than the server takes at once."""
        try:
            return [_answer(self._ask("POST", "/v1/score", params=options, files=files).json())]
        except AnswerError as error:
            if error.status != 413 or len(files) < 2:
                raise
            half = len(files) // 2
            return self._answers(files[:half], options) + self._answers(files[half:], options)

    def models(self) -> list[dict[str, Any]]:
        """What the server knows of each of its models."""
        found: list[dict[str, Any]] = self._ask("GET", "/v1/models").json()["models"]
        return found

    def history(self, **filters: Any) -> Iterator[dict[str, Any]]:
        """Rows of the history, the newest first, page by page.

        Args:
            filters: ``model``, ``verdict``, ``mark``, ``text``, ``since``, ``until``, ``batch``, as the server takes
                them.
        """
        wanted = _given(filters)
        while True:
            page = self._ask("GET", "/v1/history", params=wanted).json()
            yield from page["rows"]
            if page["next"] is None:
                return
            wanted["before"] = page["next"]

    def mark(self, id: str, mark: str | None, comment: str = "") -> dict[str, Any]:
        """Mark an image: "false alarm", "missed", "confirmed", or none to take the mark away."""
        body = {"mark": mark, "comment": comment}
        found: dict[str, Any] = self._ask("PUT", f"/v1/history/{id}/mark", json=body).json()
        return found

    def start_batch(self, archive: Path | None = None, addresses: Sequence[str] = (), **options: Any) -> str:
        """Have a zip of images, or images at some addresses, scored in the background, and give the batch's id.

        Args:
            archive, addresses: one of both.
            options: ``model``, ``alpha``, ``review_alpha``, ``keep``.
        """
        if archive is None:
            body = {"addresses": list(addresses), **_given(options)}
            return str(self._ask("POST", "/v1/batches", json=body).json()["id"])
        started = self._ask("POST", "/v1/batches", archive, params=_given(options), headers=ZIP)
        return str(started.json()["id"])

    def batch(self, id: str) -> dict[str, Any]:
        """How far a batch is."""
        found: dict[str, Any] = self._ask("GET", f"/v1/batches/{id}").json()
        return found

    def finished_batch(self, id: str, timeout: float = 3600) -> dict[str, Any]:
        """Wait until a batch is done, failed or cancelled.

        Raises:
            TimeoutError: if it takes longer.
        """
        end = time.monotonic() + timeout
        while (batch := self.batch(id))["state"] not in FINISHED:
            if time.monotonic() > end:
                raise TimeoutError(f"batch {id} is {batch['state']} after {timeout:g} s")
            time.sleep(0.2)
        return batch

    def results(self, id: str) -> str:
        """The table of a batch as CSV."""
        return self._ask("GET", f"/v1/batches/{id}/results.csv").text

    def _ask(self, method: str, path: str, file: Path | None = None, **rest: Any) -> httpx.Response:
        """Ask, again where the server is busy; the body is the file's, if there is one."""
        end = time.monotonic() + self._patience
        while True:
            try:
                with file.open("rb") if file else nullcontext() as content:
                    response = self._http.request(method, path, content=content, **rest)
            except httpx.HTTPError as error:
                reason = str(error) or type(error).__name__
                raise AnswerError(0, f"{self._http.base_url} does not answer ({reason})") from None
            except OSError as error:
                raise DataError(f"{file} cannot be read ({error.strerror or error})") from None
            if response.status_code != BUSY:
                break
            wait = int(response.headers.get("retry-after", "1"))
            if time.monotonic() + wait > end:
                raise BusyError(wait)
            time.sleep(wait)
        if response.is_success:
            return response
        raise AnswerError(response.status_code, _reason(response))


def _is_named(image: object) -> bool:
    return isinstance(image, tuple) and len(image) == 2 and isinstance(image[0], str) and isinstance(image[1], bytes)


def _upload(image: Any, number: int) -> tuple[str, bytes]:
    if _is_named(image):
        name, content = image
        return name, content
    if isinstance(image, bytes):
        return f"image {number}", image
    if isinstance(image, str | Path):
        try:
            return Path(image).name, Path(image).read_bytes()
        except OSError as error:
            raise DataError(f"{image} cannot be read ({error.strerror or error})") from None
    return f"image {number}", _png(image)


def _png(pixels: Any) -> bytes:
    from PIL import Image as Pictures

    written = io.BytesIO()
    Pictures.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _answer(found: Mapping[str, Any]) -> Answer:
    model = found["model"]
    rates = (found["alpha"], found["review_alpha"], found["threshold"])
    images = [_verdict(image) for image in found["images"]]
    return Answer(model["name"], model["version"], model["calibration"], *rates, images)


def _verdict(image: Mapping[str, Any]) -> Verdict:
    plain = ("id", "name", "verdict", "anomaly_score", "p_value", "width", "height", "error")
    regions = [Region(**{**region, "box": Box(**region["box"])}) for region in image["regions"]]
    given: dict[str, Any] = {name: image[name] for name in plain}
    pictures = [base64.b64decode(image[name]) if image[name] else None for name in ("map", "overlay")]
    return Verdict(**given, regions=regions, map=pictures[0], overlay=pictures[1])


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {response.status_code}, and not as alocc does"
