"""``/v1/models/{name}/…``: what marks say of a model, other alphas, drift, and another calibration."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from alocc.calibration import Calibration
from alocc.evaluation.monitoring import FEWEST, Window
from alocc.serving.history import ImageRow
from alocc.serving.models import Loaded
from alocc.serving.recalibration import LAST, Basis, Precision, Proposal
from alocc.serving.replies import errors
from alocc.serving.station import Station, settled, station_of

router = APIRouter(
    prefix="/v1/models/{name}", tags=["recalibration"], dependencies=[Depends(settled)], responses=errors(404)
)
Here = Annotated[Station, Depends(station_of)]
Last = Annotated[int, Query(ge=1, le=100_000, description="how many images are looked at, the newest ones")]
Alpha = Annotated[float | None, Query(gt=0, lt=1)]
ReviewAlpha = Annotated[float | None, Query(ge=0, lt=1, description="0: no third verdict")]
Verdict = Literal["normal", "can't tell", "anomalous"]


def _model(station: Here, name: str) -> Loaded:
    return station.models.get(name)


Model = Annotated[Loaded, Depends(_model)]


class Counts(BaseModel):
    """How many of the last images have each verdict by the present calibration, and would have at other alphas."""

    n_images: int
    before: dict[Verdict, int]
    after: dict[Verdict, int]
    threshold_before: float
    threshold_after: float


class DriftReply(BaseModel):
    """Whether the last images still score like those that set the threshold."""

    windows: list[Window] = Field(description="the oldest first; `first` and `last` are times")
    has_drifted: bool
    verdict: str


class VerdictCount(BaseModel):
    """How many images would go from one verdict to another, or stay."""

    before: Verdict
    after: Verdict
    n: int


class ChangeReply(BaseModel):
    """An image that would get another verdict."""

    image: ImageRow
    before: Verdict
    after: Verdict


class ProposalReply(BaseModel):
    """A calibration that could take the place of the present one, and what would be different with it."""

    basis: Basis
    alpha: float
    review_alpha: float | None
    n_images: int = Field(description="images that were looked at")
    n_normals: int = Field(description="different ones among them that count as normal")
    n_false_alarms: int = Field(description="how many of these were marked as good")
    n_left_out: int = Field(description="different ones that were called and that nobody marked: not used")
    rate_if_left_out_are_good: float = Field(description="share of the two that would be called: the worst case")
    n_held_out: int = Field(description="scores that would set the threshold")
    threshold_before: float
    threshold: float
    verdicts: list[VerdictCount]
    changes: list[ChangeReply] = Field(description="the newest ones with another verdict, at most 50")
    precision_before: Precision
    precision: Precision = Field(description="of the very images that set it: better than what new ones will show")
    digest: str = Field(description="sent back to apply this and nothing else")


class Application(BaseModel):
    """A proposal that is to be applied: what was asked, and the digest that came."""

    model_config = ConfigDict(extra="forbid")

    basis: Basis = "added"
    alpha: float | None = Field(None, gt=0, lt=1)
    review_alpha: float | None = Field(None, ge=0, lt=1)
    last: int = Field(LAST, ge=1, le=100_000)
    digest: str = Field(max_length=100)


class CalibrationVersion(BaseModel):
    """A calibration of a model's file; number 0 is its own."""

    number: int
    time: datetime | None
    alpha: float
    review_alpha: float | None
    basis: Basis | None
    n_images: int = Field(description="images of the history in it")
    n_held_out: int
    threshold: float
    active: bool


@router.get("/precision", summary="Precision of the verdicts")
def precision(station: Here, model: Model, last: Last = LAST) -> Precision:
    """How many of the images that the present calibration calls are defective, as far as people looked.

    At its own alpha, whatever alpha each request asked for, with the 95 % interval.
    """
    return station.calibrations.precision(model, last)


@router.get("/alpha", summary="Effect of other alphas")
def other_alphas(
    station: Here, model: Model, alpha: Alpha = None, review_alpha: ReviewAlpha = None, last: Last = 500
) -> Counts:
    """What other alphas would make of the last images."""
    present = station.calibrations.current(model)[1]
    before, after = station.calibrations.counts_at(model, alpha, review_alpha, last)
    return Counts(
        n_images=sum(before.values()),
        before=before,
        after=after,
        threshold_before=present.threshold,
        threshold_after=present.at(alpha, review_alpha).threshold,
    )


@router.get("/drift", summary="Drift")
def drift_of(
    station: Here, model: Model, window: Annotated[int, Query(ge=FEWEST, le=10_000)] = 100, last: Last = 2000
) -> DriftReply:
    """The last images, window by window, against those that set the threshold."""
    rows = station.history.last(model.name, last, model.version)
    if len(rows) < FEWEST:
        few = f"{len(rows)} images are too few to tell whether anything has changed; {FEWEST} are enough"
        return DriftReply(windows=[], has_drifted=False, verdict=few)
    found = station.calibrations.drift(model, rows, window)
    return DriftReply(windows=list(found.windows), has_drifted=found.has_drifted, verdict=found.verdict)


@router.get("/recalibration", summary="Propose a recalibration")
def propose(
    station: Here,
    model: Model,
    basis: Basis = "added",
    alpha: Alpha = None,
    review_alpha: ReviewAlpha = None,
    last: Last = LAST,
) -> ProposalReply:
    """What the images that count as normal would set, and what would change. Nothing is applied."""
    return _proposal(station.calibrations.propose(model, basis, alpha, review_alpha, last))


@router.post("/recalibration", summary="Apply a proposal", responses=errors(409))
def apply(station: Here, model: Model, asked: Application) -> CalibrationVersion:
    """Use a proposal from now on; 409 if it would be another one by now."""
    number = station.calibrations.apply(model, **asked.model_dump())
    return next(one for one in calibrations(station, model) if one.number == number)


@router.get("/calibrations", summary="All calibrations")
def calibrations(station: Here, model: Model) -> list[CalibrationVersion]:
    """All calibrations of the model's file, the newest first; the last one is its own, number 0."""
    rows = station.calibrations.versions(model)
    own = model.engine.calibration
    replies = [
        CalibrationVersion(
            **{field: getattr(row, field) for field in CalibrationVersion.model_fields if hasattr(row, field)},
            n_held_out=len(row.held_out_scores),
            threshold=Calibration(row.held_out_scores, row.alpha).threshold,
        )
        for row in rows
    ]
    return [
        *replies,
        CalibrationVersion(
            number=0,
            time=None,
            alpha=own.alpha,
            review_alpha=own.review_alpha,
            basis=None,
            n_images=0,
            n_held_out=own.n,
            threshold=own.threshold,
            active=not any(row.active for row in rows),
        ),
    ]


@router.post("/calibrations/{number}/activate", summary="Use an earlier calibration")
def activate(station: Here, model: Model, number: Annotated[int, Path(ge=0, le=1_000_000)]) -> list[CalibrationVersion]:
    """Use an earlier calibration again; 0: the file's own."""
    station.calibrations.activate(model, number)
    return calibrations(station, model)


def _proposal(found: Proposal) -> ProposalReply:
    kept = found.calibration
    own = {field: getattr(found, field) for field in ProposalReply.model_fields if hasattr(found, field)}
    own["verdicts"] = [
        VerdictCount(before=before, after=after, n=n) for (before, after), n in sorted(found.verdicts.items())
    ]
    own["changes"] = [ChangeReply(image=one.image, before=one.before, after=one.after) for one in found.changes]
    return ProposalReply(
        **own,
        alpha=kept.alpha,
        review_alpha=kept.review_alpha,
        n_held_out=kept.n,
        threshold_before=found.present.threshold,
        threshold=kept.threshold,
    )
