"""Files of ``alocc score --maps``: which images get a picture, what the picture says, and what its file is called.

A picture has the image at its own resolution, untouched and beside that with its map (:mod:`alocc.overlays`),
and below them the verdict and a legend. NumPy, Pillow and SciPy alone: the light runtime draws by this too.
"""

from __future__ import annotations

import functools
import heapq
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from alocc.calibration import ANOMALOUS, CANT_TELL, NORMAL
from alocc.data.entries import UNPRINTABLE, shown
from alocc.errors import ConfigError
from alocc.overlays import OTHER, RIM, STRONGEST, Pixels, heat, in_colour, overlay
from alocc.regions import Region
from alocc.scores import Scores
from alocc.scoring.stream import Engine, Rows
from alocc.scoring.table import CLASS, SUSPECT_COLUMNS, SUSPECTS, VERDICT, Row, may_hold_suspects, write_suspects
from alocc.storage import replacing

Which = Literal["all", "anomalies", "review"] | int
"""Images that get pictures: all, those that are not called normal, those for a person alone, or so many with the
highest scores."""

SMALLEST = 224
"""Pixels of the shorter side of a picture's images, at least: small ones are drawn a whole number of times larger."""
NARROWEST = 480
"""Pixels that a picture is wide, at least, so that there is room for its text."""
LONGEST = 200
"""Bytes of a folder's or file's name, at most, before its suffix; file systems take 255."""
DEEPEST = 8
"""Folders that a picture is in, at most: the last ones of its image."""
MARK = ("Software", "alocc")
"""What our pictures have in them: no other file is overwritten."""
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
"""Names that are devices on Windows."""
GROUND, INK, RED, AMBER, GREEN = (255, 255, 255), (20, 20, 20), (190, 20, 20), (150, 95, 0), (0, 110, 60)
WORDS = {ANOMALOUS: ("Anomaly", RED), CANT_TELL: ("Can't tell", AMBER), NORMAL: ("Normal", GREEN)}
"""What a picture says of a verdict, and in which colour."""


class Images(Protocol):
    """Some images that are scored together."""

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def classes(self) -> Iterable[str]: ...
    def reader(self, i: int) -> Callable[[], Pixels]:
        """Reads the i-th image as it was before it was resized, (H, W) or (H, W, C)."""


Batch = tuple[Images, Scores, Sequence[Sequence[Region]]]
"""Images, their scores with maps, and their regions."""


@dataclass(frozen=True)
class Shown:
    """One image, and what its picture says of it."""

    name: str
    image: Callable[[], Pixels]
    """Reads it as it was before it was resized, (H, W) or (H, W, C)."""
    anomaly_map: NDArray[np.float32]
    verdict: str
    anomaly_score: float
    p_value: float
    strongest: Region | None
    """Its strongest place, unless it is called normal."""


class MapPictures:
    """Writes pictures of images while their batches pass by; of the most anomalous ones, when the last has passed."""

    def __init__(self, detector: Engine, folder: Path, which: Which, where: str) -> None:
        """Begin.

        Args:
            detector: made the scores.
            folder: for the pictures; made if one is written.
            which: see :data:`Which`.
            where: what the images' names begin with, and the pictures' names do not.

        Raises:
            ConfigError: if the folder is a file, lies among the images, or has another ``suspects.csv`` than one of
                ours; or if the detector makes no maps.
        """
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"--maps {folder}: that is a file; give a folder")
        if not may_hold_suspects(folder / SUSPECTS):
            raise ConfigError(f"--maps {folder}: {folder / SUSPECTS} is no list of alocc's; give another folder")
        if os.path.isdir(where) and folder.resolve().is_relative_to(Path(where).resolve()):  # noqa: PTH112  (any text)
            raise ConfigError(
                f"--maps {folder}: it lies in {where}, and pictures would count as images; give a folder elsewhere"
            )
        self.folder, self.which, self.map_threshold = folder, which, detector.map_threshold
        self.threshold = detector.threshold
        """The score above which an image is called an anomaly."""
        self.names = PictureNames(where)
        self.n_images = self.n_written = self.n_older = 0
        self._suspects: dict[str, Row] = {}
        """Of each image that is not called normal, by its name, its row in the list of suspects."""
        self._most_anomalous: list[tuple[float, int, Callable[[], Shown]]] = []
        """A heap, the least anomalous first; of equal scores the later one."""

    def add(self, images: Images, scores: Scores, regions: Sequence[Sequence[Region]]) -> None:
        """Write pictures of some images, whose scores have maps, or keep those that are the most anomalous so far."""
        for i, (_, score, verdict) in enumerate(self._counted(images.names, images.classes, scores)):
            if isinstance(self.which, str):
                if self._is_drawn(verdict):
                    self._write(_shown(i, images, scores, regions))
            elif self._is_among_first(score):
                self._keep(score, partial(lambda one: one, _shown(i, images, scores, regions)))

    def add_earlier(self, rows: Rows, score_again: Callable[[], Batch]) -> None:
        """Count images that were scored before the job was stopped; their pictures were written, but for the highest.

        ``score_again`` gives the batch of these rows once more, to draw from.
        """
        again, classes = functools.cache(score_again), rows.classes or [""] * len(rows.names)
        for i, (name, score, verdict) in enumerate(self._counted(rows.names, classes, rows.scores)):
            if isinstance(self.which, str):
                if self._is_drawn(verdict):
                    self._note_written(name, self.names.of(name))
            elif self._is_among_first(score):
                self._keep(score, partial(lambda i: _shown(i, *again()), i))

    def finish(self) -> None:
        """Write what was kept, in the order in which it came, and the list of suspects."""
        kept = sorted(self._most_anomalous, key=lambda item: item[1])
        self._most_anomalous.clear()
        while kept:  # so that each batch that was scored again can be let go before the next
            self._write(kept.pop()[2]())
        self.folder.mkdir(parents=True, exist_ok=True)
        self.n_older = sum(path.is_file() for path in self.folder.rglob("*.png")) - self.n_written
        write_suspects(self.folder / SUSPECTS, self._suspects.values())

    @property
    def summary(self) -> str:
        """What was written, in a line."""
        older = f"; {self.n_older:,} that were there before are left" if self.n_older > 0 else ""
        listed = f"; {SUSPECTS} there lists what is not called normal: {len(self._suspects):,}"
        return f"{self.n_written:,} pictures of {self.n_images:,} images written to {self.folder}{older}{listed}"

    def _counted(
        self, names: Sequence[str], classes: Iterable[str], scores: Scores
    ) -> Iterator[tuple[str, float, str]]:
        """Name, score and verdict of each image; it is counted, and listed if it is not called normal."""
        columns = (column.tolist() for column in (scores.anomaly_score, scores.p_value, scores.verdict))
        for name, of, score, p_value, verdict in zip(names, classes, *columns, strict=True):
            self.n_images += 1
            if verdict != NORMAL and (self.which != "review" or self._is_drawn(verdict)):
                self._suspects[name] = dict(zip(SUSPECT_COLUMNS, (name, score, p_value, None), strict=True))
                self._suspects[name] |= {CLASS: str(of) or None}
                if scores.review_alpha is not None:
                    self._suspects[name] |= {VERDICT: verdict}
            yield name, score, verdict

    def _is_drawn(self, verdict: str) -> bool:
        return self.which == "all" or verdict == CANT_TELL or (self.which == "anomalies" and verdict == ANOMALOUS)

    def _is_among_first(self, score: float) -> bool:
        return len(self._most_anomalous) != self.which or score > self._most_anomalous[0][0]

    def _keep(self, score: float, one: Callable[[], Shown]) -> None:
        is_full = len(self._most_anomalous) == self.which
        (heapq.heapreplace if is_full else heapq.heappush)(self._most_anomalous, (score, -self.n_images, one))

    def _write(self, one: Shown) -> None:
        below = self.names.of(one.name)
        path = self.folder / below
        self._check_target(path)
        notes = PngInfo()
        notes.add_text(*MARK)
        picture = draw_picture(one, self.threshold, self.map_threshold)
        with replacing(path) as temporary:
            picture.save(temporary, "PNG", pnginfo=notes)
        self._note_written(one.name, below)

    def _note_written(self, name: str, below: Path) -> None:
        self.n_written += 1
        if name in self._suspects:
            self._suspects[name]["picture"] = below.as_posix()

    def _check_target(self, path: Path) -> None:
        """Refuse what a link leads out of the folder to, and to overwrite what is no picture of ours."""
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise ConfigError(f"--maps {self.folder}: a link in it, {path}, leads elsewhere; give another folder")
        if path.is_file() and not _is_ours(path):
            raise ConfigError(f"--maps {self.folder}: {path} is no picture of alocc's; give another folder")


def _shown(i: int, images: Images, scores: Scores, regions: Sequence[Sequence[Region]]) -> Shown:
    assert scores.anomaly_map is not None
    return Shown(
        images.names[i],
        images.reader(i),
        scores.anomaly_map[i].copy(),
        str(scores.verdict[i]),
        float(scores.anomaly_score[i]),
        float(scores.p_value[i]),
        regions[i][0] if regions[i] else None,
    )


def _is_ours(path: Path) -> bool:
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return picture.info.get(MARK[0]) == MARK[1]
    except (OSError, SyntaxError, ValueError):
        return False


def draw_picture(one: Shown, threshold: float, map_threshold: float) -> Image.Image:
    """The image, untouched and with its map, and below the verdict and what colours and outlines mean."""
    image = in_colour(one.image())
    scale = -(-SMALLEST // min(image.shape[:2]))
    plain = image.repeat(scale, 0).repeat(scale, 1)
    height, width = plain.shape[:2]
    marked = overlay(plain, one.anomaly_map, map_threshold, one.verdict != NORMAL)
    margin = max(8, min(height, width) // 60)
    beside = width <= 1.5 * height
    size = (2 * width + 3 * margin, height + 2 * margin) if beside else (width + 2 * margin, 2 * height + 3 * margin)
    legend = _legend(one, threshold, map_threshold, max(NARROWEST, size[0]), margin)
    picture = Image.new("RGB", (legend.width, size[1] + legend.height), GROUND)
    left = (legend.width - size[0]) // 2 + margin
    picture.paste(Image.fromarray(plain), (left, margin))
    second = (left + width + margin, margin) if beside else (left, height + 2 * margin)
    picture.paste(Image.fromarray(marked), second)
    picture.paste(legend, (0, size[1]))
    return picture


def _legend(one: Shown, threshold: float, map_threshold: float, width: int, margin: int) -> Image.Image:
    """Verdict, strongest place, outlines and the scale of the colours."""
    size = max(14, min(width // 45, 60))
    legend = Image.new("RGB", (width, 24 * size), GROUND)
    draw, font = ImageDraw.Draw(legend), ImageFont.load_default(size)
    y, step, line = margin, round(1.4 * size), max(2, size // 8)

    def write(text: str, colour: tuple[int, int, int] = INK, indent: int = 0) -> None:
        nonlocal y
        for words in _wrapped(text.replace("×", "x"), font, width - 2 * margin - indent):  # the font has no ×
            draw.text((margin + indent, y), words, colour, font)
            y += step

    def write_outline(colour: tuple[int, int, int], text: str) -> None:
        box = (margin, y, margin + 2 * size, y + size)
        draw.rectangle(box, outline=RIM, width=3 * line)
        draw.rectangle((box[0] + line, box[1] + line, box[2] - line, box[3] - line), outline=colour, width=line)
        write(text, indent=3 * size)

    verdict, colour = WORDS[one.verdict]
    write(f"{verdict}: score {one.anomaly_score:.2f}, threshold {threshold:.2f}, p-value {one.p_value:.3g}", colour)
    if one.strongest:
        write_outline(STRONGEST, f"strongest place: {one.strongest.reason}")
        if one.strongest.n_regions > 1:
            write_outline(OTHER, "other places above the map's threshold")
    else:
        write("Not called an anomaly: nothing is marked or coloured.")
    y += size // 2
    values = np.linspace(0, 2 * map_threshold, width - 2 * margin, dtype=np.float32)
    colours, opacity = heat(values[None].repeat(size, 0), map_threshold)
    bar = 150 * (1 - opacity) + colours * opacity
    legend.paste(Image.fromarray(bar.round().astype(np.uint8)), (margin, y))
    for share, text, anchor in (
        (0, "0 = usual", "la"),
        (0.5, f"{map_threshold:.3g}: normal images hardly ever have it", "ma"),
        (1, f"{2 * map_threshold:.3g} and above", "ra"),
    ):
        x = margin + share * (width - 2 * margin - 1)
        draw.line((x, y, x, y + size + size // 4), INK, line)
        draw.text((x, y + size + size // 3), text, INK, font, anchor)
    y += size + size // 3 + step
    peak = one.anomaly_map.max()
    write(f"Colours say how unusual a place is, alike in all images; the highest value here is {peak:.3g}.")
    write("The verdict is the score's, which also counts many places that are a little unusual.")
    return legend.crop((0, 0, width, y + margin))


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> list[str]:
    """Lines of whole words that are not wider, as far as words are not."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


class PictureNames:
    """Paths of pictures below their folder: those of the images below ``where``, each once, whatever file system."""

    def __init__(self, where: str) -> None:
        self.where = shown(where)
        self.files: set[str] = set()
        self.folders: set[str] = set()

    def of(self, name: str) -> Path:
        """A path that no other picture has: folders are kept, ``a.png`` is ``a.png``, ``a.jpg`` is ``a.jpg.png``."""
        parts = [_safe(part) for part in re.split(r"[/\\]", self._below(shown(name))) if part not in ("", ".", "..")]
        *folders, last = parts[-DEEPEST - 1 :] or ["_"]
        path = Path()
        for folder in folders:
            path = _free(path, folder, "", self.files)
            self.folders.add(_key(path))
        path = _free(path, re.sub(r"\.png$", "", last, flags=re.IGNORECASE), ".png", self.files | self.folders)
        self.files.add(_key(path))
        return path

    def _below(self, name: str) -> str:
        """What follows the source, or the folder that it is in."""
        folder = self.where
        while folder:
            if name.startswith((f"{folder}/", f"{folder}\\")):
                return name[len(folder) + 1 :]
            folder = re.sub(r"[/\\]?[^/\\]*$", "", folder)
        return name


def _free(folder: Path, stem: str, suffix: str, taken: set[str]) -> Path:
    """The path of a name in a folder, with a number where it is taken."""
    path, number = folder / f"{stem}{suffix}", 1
    while _key(path) in taken:
        number += 1
        path = folder / f"{stem}-{number}{suffix}"
    return path


def _key(path: Path) -> str:
    """The same for paths that some file system takes for one."""
    return unicodedata.normalize("NFC", path.as_posix()).casefold()


def _safe(part: str) -> str:
    """A name that every file system takes, not too long: its end is kept."""
    name = re.sub(r'[<>:"|?*#]', "_", UNPRINTABLE.sub("_", part)).rstrip(" .") or "_"
    name = f"_{name}" if RESERVED.match(name) else name
    while len(os.fsencode(name)) > LONGEST:
        name = name[1:]
    return name
