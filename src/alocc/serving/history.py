"""The history: every image that was scored, the marks of people, batches and calibrations, in a database.

Every method may be called from any thread, and waits for the database.
"""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import SQLAlchemyError

from alocc.calibration import ANOMALOUS, CANT_TELL, NORMAL, FloatArray
from alocc.errors import AloccError, ConfigError, RefusedError
from alocc.serving import database
from alocc.serving.tables import VERSION_TABLE, batches, calibrations, images, marks

FALSE_ALARM, MISSED, CONFIRMED = "false alarm", "missed", "confirmed"
MARKS: Mapping[str | None, tuple[str, ...]] = {
    ANOMALOUS: (FALSE_ALARM, CONFIRMED),
    CANT_TELL: (FALSE_ALARM, CONFIRMED),
    NORMAL: (MISSED,),
}
"""Which marks an image of each verdict can have: false alarm = it is good, missed and confirmed = it is defective."""
UNUSABLE, UNMARKED = "unusable", "unmarked"
"""What a filter calls images without a verdict, and without a mark."""
OPEN_STATES = ("queued", "running")
STATES = (*OPEN_STATES, "done", "failed", "cancelled")
PAGE = 1000
"""Rows of an export that are in memory together."""
LONGEST = 1000
"""Characters of a name, a comment or an error that are kept."""

CURSOR = re.compile("[0-9]{1,18}-[0-9]{1,18}")
_ids = random.Random()  # seeded by the system, once: to ask it for every image costs more than decoding one
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class HistoryError(AloccError):
    """The database does not answer, or does not take what it is given; the cause is its own error."""


class UnknownRowError(RefusedError):
    """No image, or no batch, has that id."""

    def __init__(self, what: str, id: str) -> None:
        super().__init__(404, f'the history has no {what} "{_text(id)[:40]}"')


@dataclass(frozen=True)
class ImageRow:
    """One image as it was scored."""

    id: str
    """Of :func:`new_id`."""
    time: datetime
    """UTC."""
    model: str
    version: str
    """First 12 hex digits of the model file's SHA-256."""
    calibration: int
    """Which calibration gave the p-value; 0 is the file's own."""
    name: str
    """The client's name of it."""
    sha256: str
    """Of its bytes, 64 hex digits."""
    source: str
    """"api", "page" or "batch"."""
    alpha: float
    batch: str | None = None
    position: int | None = None
    """In the batch, from 0."""
    width: int | None = None
    height: int | None = None
    """In pixels, upright; none if the image could not be used."""
    anomaly_score: float | None = None
    p_value: float | None = None
    verdict: str | None = None
    review_alpha: float | None = None
    regions: Sequence[Mapping[str, Any]] = ()
    """Of the map: box, area, peak, p_value, reason."""
    error: str | None = None
    """Why the image could not be used."""
    kept: bool = False
    """Whether its bytes are kept."""
    mark: str | None = None


@dataclass(frozen=True)
class MarkedRow(ImageRow):
    """An image after somebody set, changed or took away its mark."""

    event: int = 0
    """Number of the event, by which it can be taken back."""


@dataclass(frozen=True)
class Filter:
    """Which images are wanted: all that meet every condition that is given."""

    model: str | None = None
    version: str | None = None
    verdict: str | None = None
    """A verdict, or "unusable"."""
    mark: str | None = None
    """A mark, or "unmarked"."""
    text: str | None = None
    """In the name, in upper or lower case."""
    since: datetime | None = None
    until: datetime | None = None
    """The first moment, and the first that is no longer wanted."""
    batch: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class MarkEvent:
    """A mark that somebody set or took away. It is kept whatever becomes of it."""

    number: int
    """By which it can be taken back."""
    image: str
    time: datetime
    mark: str | None
    before: str | None
    """The mark that it took the place of."""
    comment: str
    undone: datetime | None
    """When it was taken back."""


State = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class BatchRow:
    """Images that are scored in the background."""

    id: str
    time: datetime
    model: str
    job: Mapping[str, Any]
    """What is to be done, as plain values."""
    state: State = "queued"
    done: int = 0
    """Images that are in the history, unusable ones included."""
    total: int | None = None
    error: str | None = None
    finished: datetime | None = None


@dataclass(frozen=True, eq=False)
class CalibrationRow:
    """A calibration that took the place of a model file's own, or did once."""

    model: str
    version: str
    number: int
    """From 1, of this model and version."""
    time: datetime
    alpha: float
    review_alpha: float | None
    basis: str
    """"added" or "recent"."""
    n_images: int
    """Images of the history in it."""
    held_out_scores: FloatArray
    """(n,), sorted ascending."""
    active: bool = False


def new_id() -> str:
    """An id that no other image or batch has: 128 random bits as 32 hex digits. It is no secret."""
    return f"{_ids.getrandbits(128):032x}"


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


class History:
    """Reads and writes the database of one station."""

    def __init__(self, address: str | Path) -> None:
        """Nothing is opened before the first call, which is :meth:`migrate`.

        Args:
            address: path of a SQLite file, or a URL: ``postgresql://…`` or ``sqlite:///…``.

        Raises:
            ConfigError: if it is no such URL, or psycopg is missing.
        """
        self._engine = database.connect(address)
        self._writer = self._engine.execution_options(writes=True)
        self._lock = threading.Lock()  # SQLite has one writer at a time: threads queue here, not in its retries
        self._let_go: Callable[[], None] = lambda: None
        self._insert = postgresql_insert if self._engine.dialect.name == "postgresql" else sqlite_insert

    def claim(self) -> None:
        """Keep every other server out of this database until :meth:`close`; readers may come.

        Raises:
            ConfigError: if another server has claimed it.
            ArtefactError: if it cannot be opened.
        """
        self._let_go = database.claim(self._engine)

    def migrate(self) -> None:
        """Make the tables, or bring them to the version of this alocc.

        Raises:
            ArtefactError: if the database is of a newer alocc, or not ours, or cannot be opened or written.
        """
        database.migrate(self._engine)

    def ping(self) -> None:
        """Raise a HistoryError if the database does not answer."""
        with self._reading() as connection:
            connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}")

    def close(self) -> None:
        """Let the connections go; another call opens new ones."""
        let_go, self._let_go = self._let_go, lambda: None
        with suppress(SQLAlchemyError):  # a connection that broke holds nothing any more
            let_go()
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with _answering(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with _answering(), self._lock, self._writer.begin() as connection:
            yield connection

    # images

    def add(self, rows: Sequence[ImageRow], *, batch: str | None = None, done: int | None = None) -> None:
        """Write rows, all or none. One whose id, or batch and position, is there already is left out.

        Args:
            batch: id of a batch that has come so far with these rows, in the same transaction.
            done: how many of its images are in the history now.
        """
        with self._writing() as connection:
            if rows:
                statement = self._insert(images).on_conflict_do_nothing()
                connection.execute(statement, [_values(row) for row in rows])
            if batch is not None:
                connection.execute(update(batches).where(batches.c.id == batch).values(done=done))

    def get(self, id: str) -> ImageRow:
        """One image.

        Raises:
            UnknownRowError: if there is none with this id.
        """
        with self._reading() as connection:
            return _image(_found(connection, id))

    def find(
        self, wanted: Filter | None = None, before: str | None = None, limit: int = 100
    ) -> tuple[list[ImageRow], str | None, int]:
        """A page of images, the newest first: rows, the cursor of the next page if there is one, and how many in all.

        How many there are in all is what it was at the first page.

        Args:
            before: cursor of the page; none: the first one.
            limit: rows of a page, at least 1.

        Raises:
            ConfigError: if the cursor is none that was given.
        """
        conditions = _conditions(wanted or Filter())
        page = select(images).where(*conditions).order_by(images.c.number.desc()).limit(limit + 1)
        with self._reading() as connection:
            if before is None:
                total = connection.execute(select(func.count()).select_from(images).where(*conditions)).scalar_one()
            else:  # counting takes longer than a page: it is done once, and goes along
                number, total = _cursor(before)
                page = page.where(images.c.number < number)
            found = connection.execute(page).all()
        following = f"{found[limit - 1].number}-{total}" if len(found) > limit else None
        return [_image(row) for row in found[:limit]], following, total

    def export(self, wanted: Filter | None = None) -> Iterator[ImageRow]:
        """All images, the newest first, a few at a time in memory; those that come meanwhile are left out."""
        conditions = _conditions(wanted or Filter())
        rows = select(images).where(*conditions).order_by(images.c.number.desc()).limit(PAGE)
        page = rows
        while True:
            with self._reading() as connection:  # one transaction a page: a slow reader holds nothing up
                found = connection.execute(page).all()
            yield from map(_image, found)
            if len(found) < PAGE:
                return
            page = rows.where(images.c.number < found[-1].number)

    def last(self, model: str, n: int, version: str | None = None, upto: str | None = None) -> list[ImageRow]:
        """The newest n images with a verdict of a model, or of one version of it, the newest first.

        Args:
            upto: id of the newest image that counts; none: the newest there is.
        """
        wanted = [images.c.model == _text(model), images.c.verdict.is_not(None)]
        if version is not None:
            wanted.append(images.c.version == version)
        if upto is not None:
            wanted.append(
                images.c.number <= select(images.c.number).where(images.c.id == _text(upto)).scalar_subquery()
            )
        with self._reading() as connection:
            found = connection.execute(select(images).where(*wanted).order_by(images.c.number.desc()).limit(n)).all()
        return [_image(row) for row in found]

    def counts(self, wanted: Filter | None = None) -> dict[tuple[str | None, str | None], int]:
        """How many images there are of each verdict and mark."""
        kinds = (images.c.verdict, images.c.mark)
        with self._reading() as connection:
            found = connection.execute(
                select(*kinds, func.count()).where(*_conditions(wanted or Filter())).group_by(*kinds)
            ).all()
        return {(verdict, mark): n for verdict, mark, n in found}

    def prune(self, older_than: datetime) -> int:
        """Delete rows from before a moment, and say how many.

        Those that anybody ever marked stay, and so do those of batches under way.
        """
        ever_marked = select(marks.c.image).where(marks.c.image == images.c.number).exists()
        is_open = batches.c.state.in_(OPEN_STATES)
        under_way = select(batches.c.id).where(batches.c.id == images.c.batch, is_open).exists()
        old = select(images.c.number).where(images.c.time < _whole(older_than), ~ever_marked, ~under_way)
        n_rows = 0
        while True:
            with self._writing() as connection:  # a few at a time: others write in between
                some = connection.execute(old.order_by(images.c.time).limit(PAGE)).scalars().all()
                connection.execute(delete(images).where(images.c.number.in_(some)))
            n_rows += len(some)
            if len(some) < PAGE:
                return n_rows

    def let_go(self, sha256: Sequence[str]) -> None:
        """Note that the bytes of these images are no longer kept."""
        with self._writing() as connection:
            for start in range(0, len(sha256), PAGE):
                gone = images.c.sha256.in_(sha256[start : start + PAGE])
                connection.execute(update(images).where(gone, images.c.kept).values(kept=False))

    # marks

    def mark(self, id: str, mark: str | None, comment: str = "") -> MarkedRow:
        """Set, change or take away an image's mark, and keep that this was done.

        Raises:
            UnknownRowError: if there is no such image.
            ConfigError: if an image with its verdict cannot have this mark.
        """
        with self._writing() as connection:
            connection.execute(select(images.c.number).where(images.c.id == _text(id)).with_for_update())  # in turn
            found = _found(connection, id)
            possible = MARKS.get(found.verdict, ())
            if mark is not None and mark not in possible:
                choice = " or ".join(f'"{one}"' for one in possible) or "no mark"
                raise ConfigError(
                    f'an image of verdict "{found.verdict or UNUSABLE}" can have {choice}, not "{mark[:40]}"'
                )
            event = connection.execute(
                insert(marks)
                .values(image=found.number, time=_whole(now()), mark=mark, before=found.mark, comment=_text(comment))
                .returning(marks.c.number)
            ).scalar_one()
            return MarkedRow(**vars(_marked(connection, found.number, mark)), event=event)

    def undo(self, event: int | None = None) -> ImageRow | None:
        """Take back a mark that was not taken back yet, and give its image; none if there is none.

        Args:
            event: which one, by its number; none: the last of all, whoever set it.

        Raises:
            UnknownRowError: if there is no such event.
            RefusedError: 409, if it is not the last one of its image any more.
        """
        wanted = marks.c.undone.is_(None) if event is None else marks.c.number == event
        with self._writing() as connection:
            chosen = connection.execute(_newest_mark(wanted)).one_or_none()
            if chosen is None and event is not None:
                raise UnknownRowError("mark", str(event))
            if chosen is None:
                return None
            of_image = images.c.number == chosen.image
            connection.execute(select(images.c.number).where(of_image).with_for_update())  # in turn
            newest = _newest_mark(marks.c.image == chosen.image, marks.c.undone.is_(None))
            last = connection.execute(newest).one_or_none()
            if last is None or last.number != chosen.number:
                raise RefusedError(409, "this mark was changed or taken back meanwhile; look at its image again")
            connection.execute(update(marks).where(marks.c.number == last.number).values(undone=_whole(now())))
            return _marked(connection, last.image, last.before)

    def marks_of(self, id: str) -> list[MarkEvent]:
        """Everything that was done to an image's mark, in order.

        Raises:
            UnknownRowError: if there is no such image.
        """
        with self._reading() as connection:
            number = _found(connection, id).number
            found = connection.execute(select(marks).where(marks.c.image == number).order_by(marks.c.number)).all()
        return [
            MarkEvent(row.number, id, _moment(row.time), row.mark, row.before, row.comment, _moment_or_none(row.undone))
            for row in found
        ]

    # batches

    def add_batch(self, batch: BatchRow) -> None:
        """Keep a batch that is to be done."""
        values = {
            "id": batch.id,
            "time": _whole(batch.time),
            "model": _text(batch.model),
            "job": json.dumps(dict(batch.job)),
        }
        progress = {"state": batch.state, "done": batch.done, "total": batch.total}
        with self._writing() as connection:
            connection.execute(insert(batches).values(**values, **progress))

    def batch(self, id: str) -> BatchRow:
        """One batch.

        Raises:
            UnknownRowError: if there is none with this id.
        """
        with self._reading() as connection:
            return _batch(connection, id)

    def batches(self, limit: int = 100) -> list[BatchRow]:
        """The newest batches, the newest first."""
        with self._reading() as connection:
            found = connection.execute(select(batches).order_by(batches.c.number.desc()).limit(limit)).all()
        return [_batch_row(row) for row in found]

    def next_batch(self) -> BatchRow | None:
        """The batch to work on: one that runs, or did when the process ended, before the one that waits longest."""
        first = batches.c.state == "running"
        waiting = select(batches).where(batches.c.state.in_(OPEN_STATES)).order_by(first.desc(), batches.c.number)
        with self._reading() as connection:
            found = connection.execute(waiting.limit(1)).one_or_none()
        return None if found is None else _batch_row(found)

    def set_batch(
        self,
        id: str,
        state: State | None = None,
        done: int | None = None,
        total: int | None = None,
        error: str | None = None,
    ) -> BatchRow:
        """Change what is given of a batch, and give it; one that is done, failed or cancelled stays as it is.

        Raises:
            UnknownRowError: if there is none with this id.
        """
        given = {"state": state, "done": done, "total": total, "error": None if error is None else _text(error)}
        values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if state is not None and state not in OPEN_STATES:
            values["finished"] = _whole(now())
        with self._writing() as connection:
            if values:
                is_open = batches.c.state.in_(OPEN_STATES)
                connection.execute(update(batches).where(batches.c.id == id, is_open).values(**values))
            return _batch(connection, id)

    # calibrations

    def add_calibration(self, row: CalibrationRow) -> CalibrationRow:
        """Keep a calibration under the next number of its model and version, whatever its own, and make it active."""
        mine = _of(row.model, row.version)
        scores = np.ascontiguousarray(row.held_out_scores, "<f8").tobytes()
        with self._writing() as connection:
            last = connection.execute(select(func.max(calibrations.c.number)).where(*mine)).scalar_one()
            number = (last or 0) + 1
            connection.execute(update(calibrations).where(*mine).values(active=False))
            values = {"model": _text(row.model), "version": row.version, "number": number, "time": _whole(row.time)}
            alphas = {"alpha": row.alpha, "review_alpha": row.review_alpha}
            more = {"basis": row.basis, "n_images": row.n_images, "held_out_scores": scores, "active": True}
            connection.execute(insert(calibrations).values(**values, **alphas, **more))
        return replace(row, number=number, active=True)

    def calibrations(self, model: str, version: str) -> list[CalibrationRow]:
        """Those of a model's version, the newest first."""
        mine = _of(model, version)
        with self._reading() as connection:
            found = connection.execute(select(calibrations).where(*mine).order_by(calibrations.c.number.desc())).all()
        return [_calibration(row) for row in found]

    def activate(self, model: str, version: str, number: int) -> None:
        """Let a calibration give the p-values from now on; 0: the model file's own.

        Raises:
            ConfigError: if there is none of this number.
        """
        mine = _of(model, version)
        with self._writing() as connection:
            numbers = set(connection.execute(select(calibrations.c.number).where(*mine)).scalars())
            if number not in numbers | {0}:
                raise ConfigError(f"there is no calibration {number} of this model")
            connection.execute(update(calibrations).where(*mine).values(active=calibrations.c.number == number))


@contextmanager
def _answering() -> Iterator[None]:
    """Errors of the database as ours, which say nothing of where it is."""
    try:
        yield
    except SQLAlchemyError as error:
        raise HistoryError("the history's database does not answer, or cannot be written; its log says why") from error


def _conditions(wanted: Filter) -> list[Any]:
    exact = (
        (images.c.model, wanted.model, None),
        (images.c.version, wanted.version, None),
        (images.c.verdict, wanted.verdict, UNUSABLE),
        (images.c.mark, wanted.mark, UNMARKED),
        (images.c.batch, wanted.batch, None),
        (images.c.source, wanted.source, None),
    )
    conditions = [
        column.is_(None) if value == nothing else column == _text(value)
        for column, value, nothing in exact
        if value is not None
    ]
    if wanted.text:
        conditions.append(images.c.folded.contains(_text(wanted.text).casefold(), autoescape=True))
    if wanted.since is not None:
        conditions.append(images.c.time >= _whole(wanted.since))
    if wanted.until is not None:
        conditions.append(images.c.time < _whole(wanted.until))
    return conditions


def _cursor(text: str) -> tuple[int, int]:
    if not CURSOR.fullmatch(text):
        raise ConfigError(f'there is no page before "{text[:40]}": give "next" of the page before it')
    number, total = map(int, text.split("-"))
    return number, total


def _of(model: str, version: str) -> tuple[Any, Any]:
    """Which calibrations are of a model's file."""
    return calibrations.c.model == _text(model), calibrations.c.version == version


def _found(connection: Connection, id: str) -> Any:
    found = connection.execute(select(images).where(images.c.id == _text(id))).one_or_none()
    if found is None:
        raise UnknownRowError("image", id)
    return found


def _marked(connection: Connection, number: int, mark: str | None) -> ImageRow:
    connection.execute(update(images).where(images.c.number == number).values(mark=mark))
    return _image(connection.execute(select(images).where(images.c.number == number)).one())


def _newest_mark(*conditions: Any) -> Any:
    """The query for the last event that meets the conditions."""
    return select(marks).where(*conditions).order_by(marks.c.number.desc()).limit(1)


def _batch(connection: Connection, id: str) -> BatchRow:
    found = connection.execute(select(batches).where(batches.c.id == _text(id))).one_or_none()
    if found is None:
        raise UnknownRowError("batch", id)
    return _batch_row(found)


# rows and their values in the database


def _values(row: ImageRow) -> dict[str, Any]:
    name = _text(row.name)
    return vars(row) | {
        "time": _whole(row.time),
        "model": _text(row.model),
        "name": name,
        "folded": name.casefold(),
        "regions": json.dumps(list(row.regions)) if row.regions else "[]",
        "error": None if row.error is None else _text(row.error),
    }


def _image(row: Any) -> ImageRow:
    values = dict(row._mapping)
    del values["number"], values["folded"]
    regions = values["regions"]
    values["regions"] = () if regions == "[]" else json.loads(regions)
    values["time"] = _moment(values["time"])
    return ImageRow(**values)


def _batch_row(row: Any) -> BatchRow:
    finished = _moment_or_none(row.finished)
    return BatchRow(
        row.id, _moment(row.time), row.model, json.loads(row.job), row.state, row.done, row.total, row.error, finished
    )


def _calibration(row: Any) -> CalibrationRow:
    values = dict(row._mapping)
    scores = np.frombuffer(values["held_out_scores"], "<f8").astype(np.float64)
    return CalibrationRow(**values | {"time": _moment(values["time"]), "held_out_scores": scores})


def _whole(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _moment_or_none(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _moment(microseconds)


def _text(text: str) -> str:
    """What every database takes: no zeros, no halves of characters, and no novel."""
    if text.isascii() and text.isprintable():
        return text[:LONGEST]
    return text[:LONGEST].replace("\0", "").encode("utf-8", "replace").decode()
