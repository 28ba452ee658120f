"""What requests and replies look like: the models behind OpenAPI, with examples."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ID = "0123456789abcdef0123456789abcdef"
NAMED = Field(None, max_length=200, examples=["run"])
SHARE = Field(None, gt=0, lt=1, allow_inf_nan=False)


class ErrorReply(BaseModel):
    """Why there is no other reply."""

    error: str = Field(examples=["alpha must be at least 0.005 with 200 held-out images, got 0.001"])


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Error replies of a route, for OpenAPI: those that every route has, and these."""
    return {status: {"model": ErrorReply, "description": ERRORS[status]} for status in (*ALWAYS, *statuses)}


ERRORS = {
    400: "The request cannot be understood.",
    401: "A token is needed, or it is another one.",
    403: "Requests of this page, or under this name of the server, are refused.",
    404: "There is nothing of this name.",
    405: "Nothing here answers this method.",
    408: "The body took too long.",
    409: "What was shown before is no longer so.",
    410: "It is no longer kept.",
    413: "It is more than is allowed.",
    415: "Bodies of this type are not understood.",
    422: "Something in the request is wrong, or not one image can be used.",
    429: "Too much is waiting, or this client asks too often; Retry-After says when to ask again.",
    431: "The headers are too long.",
    500: "Something went wrong in the server; its log says what.",
    501: "The server lacks a library for it.",
    503: "The server cannot work now.",
    507: "The server has no room for it.",
}
ALWAYS = (400, 401, 403, 408, 413, 422, 429, 431, 500, 503)


class ScoreOptions(BaseModel):
    """What is wanted of images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(None, max_length=200, description="Name of a model; the first one if left out.")
    alpha: float | None = Field(
        None, gt=0, lt=1, allow_inf_nan=False, description="False-positive rate; the model's if left out."
    )
    review_alpha: float | None = Field(
        None,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="Up to here an image that is not called is for a person: can't tell. At least alpha; 0: none is.",
    )
    map: bool = Field(False, description="Whether the colours of the map are wanted, a transparent PNG.")
    overlay: bool = Field(False, description="Whether the image with the map over it is wanted, a PNG.")
    keep: bool | None = Field(None, description="Whether the image is kept; if left out, as the server does.")
    source: Literal["api", "page"] = Field("api", description="Who asks.")


class UploadedImage(BaseModel):
    """An image inside JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = Field(None, description="Whatever the client calls it.", examples=["part-17.png"])
    data: str = Field(description="The bytes of an image file, in base64.")


class ScoreRequest(ScoreOptions):
    """Images inside JSON, and what is wanted of them."""

    images: list[UploadedImage] = Field(min_length=1)


class Box(BaseModel):
    """A box in the image's own pixels; right and bottom are the first ones beyond it."""

    left: int
    top: int
    right: int
    bottom: int


class RegionReply(BaseModel):
    """A place that is unusual."""

    box: Box
    area: int = Field(description="Pixels.")
    peak: float = Field(description="Highest value of the map in it.")
    p_value: float = Field(description="Chance that a normal image's map is as high anywhere.")
    reason: str


class ModelOfReply(BaseModel):
    """Which model judged, by which file, and which calibration."""

    name: str = Field(examples=["run"])
    version: str = Field(description="First 12 hex digits of the file's SHA-256.", examples=["3f9a0c12be44"])
    calibration: int = Field(description="0: the file's own.")


class ImageReply(BaseModel):
    """A verdict, or why there is none."""

    id: str = Field(description="Its row in the history.", examples=[ID])
    name: str = Field(examples=["part-17.png"])
    verdict: Literal["normal", "can't tell", "anomalous"] | None
    anomaly_score: float | None = Field(description="Higher = more anomalous.")
    p_value: float | None = Field(description="Share of held-out normal images at least as anomalous.")
    width: int | None
    height: int | None
    box: Box | None = Field(description="Of the most unusual place, if the image is not called normal.")
    regions: list[RegionReply]
    map: str | None = Field(description="PNG, in base64.")
    overlay: str | None = Field(description="PNG, in base64.")
    error: str | None


class ScoreReply(BaseModel):
    """Verdicts, in the order of the images."""

    model: ModelOfReply
    alpha: float
    review_alpha: float | None
    threshold: float | None = Field(description="Above this anomaly score, an image is called anomalous.")
    images: list[ImageReply]


class FindingReply(BaseModel):
    """One reason for the verdict on a detector."""

    verdict: Literal["good", "doubtful", "useless"]
    reason: str
    advice: str


class HealthReply(BaseModel):
    """What the last check said of a detector."""

    verdict: Literal["good", "doubtful", "useless"]
    findings: list[FindingReply]
    meaning: str


class CalibrationReply(BaseModel):
    """Where a model's p-values come from."""

    number: int = Field(description="0: the file's own.")
    date: str | None = Field(description="When it was applied; none of the file's own.")
    n_images: int = Field(description="Held-out scores in it.")


class ModelReply(BaseModel):
    """A model."""

    name: str = Field(examples=["run"])
    version: str = Field(examples=["3f9a0c12be44"])
    images: str = Field(examples=["28×28 grey"])
    width: int
    height: int
    preset: str = Field(examples=["robust"])
    alpha: float
    review_alpha: float | None
    threshold: float | None
    smallest_alpha: float = Field(description="The smallest that the calibration supports.")
    health: HealthReply | None
    has_maps: bool
    calibration: CalibrationReply
    loaded_at: str
    has_curves: bool
    has_report: bool
    problem: str | None = Field(description="Why a newer file of it is not used.")


class ModelsReply(BaseModel):
    """All models; the first is used where none is named."""

    models: list[ModelReply]


class CurvesReply(BaseModel):
    """The history of a training: a value of each column for each row."""

    columns: dict[str, list[float | str | None]]


class AliveReply(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class ReadyReply(BaseModel):
    """Whether work can be done, and what is wrong where it cannot."""

    status: Literal["ok", "failing"]
    problems: list[str]
