"""A suite of nineteen small image sets of different types, the same on every machine; benchmarks/suite.py runs it.

Drawn sets need NumPy and Pillow alone; glyphs come from the fonts that Matplotlib ships; photographs and faces from
scikit-image, where it is installed; clothes from Debian's ``dataset-fashion-mnist``, where it is. In each set the
training images are normal alone, and test images share no pixel of a photograph, and no drawing, with them.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from alocc.benchmark.cells import Cell, Task, UnavailableError, limited
from alocc.benchmark.cells import load_task as load_task_of_source
from alocc.data.mnist import read_idx

Images = NDArray[np.uint8]
Rng = np.random.Generator
CLOTHES = Path("/usr/share/datasets/fashion-mnist")
FINE = 4
"""Drawn images are drawn this many times larger and then reduced, so that edges are smooth."""


def load_set(name: str) -> Task:
    """Make or read one set of :data:`SUITE`; always the same images.

    Raises:
        UnavailableError: if it needs something that is not installed.
    """
    # numbered by name, so that a new set changes no other
    train, normal, anomalous = SUITE[name][1](np.random.default_rng(int.from_bytes(name.encode(), "big")))
    test = np.concatenate([normal, anomalous])
    return Task(train, test, np.arange(len(test)) >= len(normal))


def load_task(cell: Cell) -> Task:
    """Images of a cell of the suite, or of any other."""
    return limited(cell, load_set(cell.label)) if cell.data == "suite" else load_task_of_source(cell)


Made = tuple[Images, Images, Images]
"""Normal images to train on, normal test images, anomalous test images."""


def _digits(rng: Rng) -> Made:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = (images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    order = rng.permutation(len(grey))  # the database is sorted by writer
    grey, labels = grey[order], labels[order]
    large = np.stack([np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC)) for image in grey])
    three = large[labels == 3]
    return three[:120], three[120:], large[labels != 3][::4]


def _clothes(rng: Rng) -> Made:
    return _fashion(6)


def _fashion(label: int) -> Made:
    """One kind of clothes against all others; Fashion-MNIST is Zalando's, under the MIT licence."""
    try:
        images, labels = (
            [
                read_idx(gzip.decompress((CLOTHES / f"{split}-{kind}-ubyte.gz").read_bytes()))
                for split in ("train", "t10k")
            ]
            for kind in ("images-idx3", "labels-idx1")
        )
    except OSError:
        raise UnavailableError(
            f"Debian's package dataset-fashion-mnist is not installed (looked in {CLOTHES})"
        ) from None
    test = images[1]
    return images[0][labels[0] == label], test[labels[1] == label], test[labels[1] != label][::4]


def _faces(rng: Rng) -> Made:
    images = (np.clip(_photo("lfw_subset.npy"), 0, 1) * 255).astype(np.uint8)
    order = rng.permutation(100)
    return images[order[:60]], images[order[60:]], images[100:]


def _textures(rng: Rng) -> Made:
    """Grass; gravel and brick are anomalies."""
    grass = _tiles(_photo("grass.png"), 32, rng)
    others = [_tiles(_photo(name), 32, rng)[:100] for name in ("gravel.png", "brick.png")]
    return grass[:160], grass[160:], np.concatenate(others)


def _bricks(rng: Rng) -> Made:
    """Bricks; a smear, a spot or a shifted piece is an anomaly."""
    brick = _tiles(_photo("brick.png"), 32, rng)
    return brick[:150], brick[150:], np.stack([_damage(image, rng) for image in np.repeat(brick[150:], 2, 0)])


def _photographs(rng: Rng) -> Made:
    """Pieces of one photograph, in colour; pieces of other photographs are anomalies."""
    cat = _tiles(_photo("chelsea.png"), 24, rng)
    names = ("coffee.png", "astronaut.png", "rocket.jpg", "ihc.png")
    others = [_tiles(_photo(name)[..., :3], 24, rng)[:50] for name in names]
    return cat[:140], cat[140:], np.concatenate(others)


def _tissue(rng: Rng) -> Made:
    """Stained tissue, in colour; where the stain is missing, blurred or turned to another hue is an anomaly."""
    slide = _tiles(_photo("ihc.png")[..., :3], 32, rng)
    faults = [fault(image, rng) for image in slide[160:] for fault in (_blurred, _hue_turned, _smeared)]
    return slide[:160], slide[160:], np.stack(faults)


def _glyphs(rng: Rng) -> Made:
    """The letter R in many fonts; other letters and digits are anomalies."""
    from matplotlib import get_data_path

    paths = sorted((Path(get_data_path()) / "fonts" / "ttf").glob("*.ttf"))
    fonts = [path for path in paths if path.name.startswith(("DejaVu", "STIXGeneral", "cmr", "cmb", "cmss", "cmtt"))]
    fonts = [path for path in fonts if "Display" not in path.name]

    def draw(letter: str) -> Images:
        font = ImageFont.truetype(str(rng.choice([str(path) for path in fonts])), int(rng.integers(80, 100)))
        image = Image.new("L", (28 * FINE, 28 * FINE))
        place = 14 * FINE + rng.normal(0, 3, 2)
        ImageDraw.Draw(image).text(tuple(place), letter, 255, font, anchor="mm")
        return _reduced(image.rotate(rng.normal(0, 4), Image.Resampling.BICUBIC))

    letters = "ABDEFGHKMNPSXZaegkns2358"
    others = [draw(letters[i % len(letters)]) for i in range(240)]
    return np.stack([draw("R") for _ in range(500)]), np.stack([draw("R") for _ in range(200)]), np.stack(others)


def _shapes(rng: Rng) -> Made:
    """Triangles of any colour, place and direction; squares, pentagons, discs and stars are anomalies."""

    def draw(corners: int, depth: float) -> Images:
        background = rng.integers(0, 256, 3)
        colour = (background + rng.integers(70, 186, 3)) % 256
        image = Image.new("RGB", (32 * FINE, 32 * FINE), tuple(background.tolist()))
        centre, radius, turn = rng.uniform(11, 21, 2) * FINE, rng.uniform(8, 11) * FINE, rng.uniform(0, 2 * math.pi)
        angles = turn + np.arange(corners) * 2 * math.pi / corners
        radii = radius * np.where(np.arange(corners) % 2, depth, 1.0)
        points = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        ImageDraw.Draw(image).polygon([tuple(point) for point in points], tuple(colour.tolist()))
        return _reduced(image)

    kinds = [(4, 1.0), (5, 1.0), (40, 1.0), (10, 0.45)]
    others = [draw(*kinds[i % 4]) for i in range(240)]
    return np.stack([draw(3, 1.0) for _ in range(6000)]), np.stack([draw(3, 1.0) for _ in range(240)]), np.stack(others)


def _fabric(rng: Rng) -> Made:
    """A weave; a missing thread, a stain, a knot or a crease is an anomaly."""

    def draw(defect: int | None) -> Images:
        y, x = np.mgrid[0:64, 0:64].astype(float)
        y, x = y + rng.uniform(0, 8), x + rng.uniform(0, 8)
        warp = x + 0.6 * np.sin(y / 9 + rng.uniform(0, 6)) + rng.normal(0, 0.02) * y
        weft = y + 0.6 * np.sin(x / 11 + rng.uniform(0, 6))
        over = (np.floor(warp / 4) + np.floor(weft / 4)) % 2
        threads = np.where(over, np.abs(np.sin(np.pi * warp / 4)), 0.8 * np.abs(np.sin(np.pi * weft / 4)))
        image = 0.25 + 0.5 * threads + rng.normal(0, 0.03, threads.shape)
        u, v = rng.uniform(12, 52, 2)
        distance = np.hypot(np.mgrid[0:64, 0:64][0] - u, np.mgrid[0:64, 0:64][1] - v)
        if defect == 0:
            start = int(u)
            image[start : start + 3] = 0.25 + rng.normal(0, 0.03, (3, 64))
        elif defect == 1:
            image *= 1 - 0.5 * np.exp(-((distance / rng.uniform(5, 8)) ** 2))
        elif defect == 2:
            spot = np.exp(-((distance / rng.uniform(2.5, 4)) ** 2))
            image = image * (1 - spot) + 0.9 * spot
        elif defect == 3:
            angle = rng.uniform(0, math.pi)
            line = (np.mgrid[0:64, 0:64][0] - u) * math.cos(angle) + (np.mgrid[0:64, 0:64][1] - v) * math.sin(angle)
            image += 0.35 * np.exp(-((line / 2) ** 2))
        return _bytes(image * rng.uniform(0.9, 1.1))

    return _drawn(draw, 300, 150, 200, 4)


def _metal(rng: Rng) -> Made:
    """Brushed metal, in colour; a scratch, a pit, rust or a dent is an anomaly."""

    def draw(defect: int | None) -> Images:
        grain = rng.normal(0, 1, (48, 1)) * 0.5 + rng.normal(0, 1, (48, 48 + 16))
        grain = np.stack([np.convolve(row, np.ones(17) / 17, "valid") for row in grain])
        y, x = np.mgrid[0:48, 0:48]
        light = 0.55 + 0.12 * np.cos((x - rng.uniform(0, 48)) / 20)
        image = (light + 0.08 * grain)[..., None] * np.array([0.96, 0.98, 1.0])
        u, v = rng.uniform(10, 38, 2)
        distance = np.hypot(y - u, x - v)
        if defect == 0:
            angle = rng.uniform(0.3, 2.8)
            across = (y - u) * math.cos(angle) - (x - v) * math.sin(angle)
            along = (y - u) * math.sin(angle) + (x - v) * math.cos(angle)
            image += 0.35 * (np.exp(-(across**2)) * (np.abs(along) < rng.uniform(8, 16)))[..., None]
        elif defect == 1:
            image -= 0.4 * np.exp(-((distance / rng.uniform(1.5, 3)) ** 2))[..., None]
        elif defect == 2:
            patch = np.exp(-((distance / rng.uniform(5, 9)) ** 4))[..., None]
            image = image * (1 - 0.6 * patch) + 0.6 * patch * np.array([0.55, 0.3, 0.15])
        elif defect == 3:
            image += (0.25 * (x - v) / 5 * np.exp(-((distance / 5) ** 2)))[..., None]
        return _bytes(image)

    return _drawn(draw, 200, 150, 200, 4)


def _scans(rng: Rng) -> Made:
    """Slices of a body-like phantom; a lesion, a missing organ or a shifted one is an anomaly."""

    def draw(defect: int | None) -> Images:
        image = Image.new("L", (48 * FINE, 48 * FINE))
        pen = ImageDraw.Draw(image)

        def ellipse(x: float, y: float, width: float, height: float, grey: float) -> None:
            x, y = x + rng.normal(0, 0.4), y + rng.normal(0, 0.4)
            width, height = width * rng.normal(1, 0.05), height * rng.normal(1, 0.05)
            box = [(x - width) * FINE, (y - height) * FINE, (x + width) * FINE, (y + height) * FINE]
            pen.ellipse(box, int(grey * rng.normal(1, 0.03)))

        ellipse(24, 24, 21, 17, 190)
        ellipse(24, 24, 19, 15, 90)
        organs = [(15, 22, 6, 8, 30), (33, 22, 6, 8, 30), (24, 34, 3, 3, 220), (27, 25, 4, 5, 140)]
        moved = int(rng.integers(4))
        for i, (x, y, width, height, grey) in enumerate(organs):
            if defect == 1 and i == moved:
                continue
            dx, dy = rng.choice([-5, 5], 2) if defect == 2 and i == moved else (0, 0)
            ellipse(x + dx, y + dy, width, height, grey)
        if defect == 0:
            (x, y), (width, height) = rng.uniform(14, 34, 2), rng.uniform(1.5, 3, 2)
            ellipse(x, y, width, height, rng.choice([60, 170, 240]))
        blurred = image.filter(ImageFilter.GaussianBlur(0.7 * FINE))
        return _bytes(_reduced(blurred) / 255 + rng.normal(0, 0.03, (48, 48)))

    return _drawn(draw, 400, 150, 210, 3)


def _cells(rng: Rng) -> Made:
    """Round cells with a nucleus, in colour, in any direction; a parasite, two nuclei or a crescent is an anomaly."""

    def draw(defect: int | None) -> Images:
        image = Image.new("RGB", (40 * FINE, 40 * FINE), (235, 225, 230))
        pen = ImageDraw.Draw(image)

        def disc(x: float, y: float, radius: float, colour: tuple[int, int, int], stretch: float = 1.0) -> None:
            wide, high = radius * stretch, radius / stretch
            box = [(x - wide) * FINE, (y - high) * FINE, (x + wide) * FINE, (y + high) * FINE]
            pen.ellipse(box, tuple(int(np.clip(value + rng.normal(0, 6), 0, 255)) for value in colour))

        x, y = rng.uniform(17, 23, 2)
        radius = rng.uniform(11, 14)
        disc(x, y, radius, (215, 140, 150), 0.7 if defect == 2 else rng.normal(1, 0.03))
        angle, reach = rng.uniform(0, 2 * math.pi), radius * 0.35
        disc(x + reach * math.cos(angle), y + reach * math.sin(angle), radius * 0.42, (110, 60, 140))
        if defect == 0:
            turn = angle + rng.uniform(2, 4)
            disc(x + 6 * math.cos(turn), y + 6 * math.sin(turn), rng.uniform(1.2, 2), (60, 30, 110))
        elif defect == 1:
            disc(x - reach * math.cos(angle), y - reach * math.sin(angle), radius * 0.42, (110, 60, 140))
        blurred = image.filter(ImageFilter.GaussianBlur(0.6 * FINE))
        return _bytes(_reduced(blurred) / 255 + rng.normal(0, 0.02, (40, 40, 3)))

    return _drawn(draw, 2000, 200, 210, 3)


def _washers(rng: Rng) -> Made:
    """Few images of a ring with a notch on top; broken, filled, thin or notchless ones are anomalies."""

    def draw(defect: int | None) -> Images:
        image = Image.new("L", (32 * FINE, 32 * FINE), int(rng.normal(40, 4)))
        pen = ImageDraw.Draw(image)
        grey, ground = int(rng.normal(180, 8)), int(rng.normal(40, 4))
        (x, y), outer = rng.normal(16, 0.7, 2), rng.normal(11, 0.3)
        inner = outer * (0.75 if defect == 2 else 0.2 if defect == 1 else 0.5)
        for radius, colour in ((outer, grey), (inner, ground)):
            pen.ellipse([(x - radius) * FINE, (y - radius) * FINE, (x + radius) * FINE, (y + radius) * FINE], colour)
        if defect != 3:
            pen.rectangle([(x - 1.5) * FINE, (y - outer - 1) * FINE, (x + 1.5) * FINE, (y - outer + 3) * FINE], ground)
        if defect == 0:
            angle = rng.uniform(0.6, 2 * math.pi - 0.6) - math.pi / 2
            end = [x + 14 * math.cos(angle), y + 14 * math.sin(angle)]
            pen.line([x * FINE, y * FINE, end[0] * FINE, end[1] * FINE], ground, int(rng.uniform(2, 3.5) * FINE))
        return _bytes(
            _reduced(image.filter(ImageFilter.GaussianBlur(0.5 * FINE))) / 255 + rng.normal(0, 0.02, (32, 32))
        )

    return _drawn(draw, 50, 150, 200, 4)


def _boots(rng: Rng) -> Made:
    return _fashion(9)


def _stars(rng: Rng) -> Made:
    """Deep sky, in colour; a satellite's trail, a ghost of the optics or a dead stripe is an anomaly."""
    sky = _tiles(_photo("hubble_deep_field.jpg"), 32, rng)[:500]
    y, x = np.mgrid[0:32, 0:32]

    def fault(image: Images, kind: int) -> Images:
        u, v = rng.uniform(8, 24, 2)
        if kind == 0:
            angle = rng.uniform(0, math.pi)
            light = 110 * np.exp(-((((y - u) * math.cos(angle) - (x - v) * math.sin(angle)) / 0.9) ** 2))
        elif kind == 1:
            light = 45 * np.exp(-(((np.hypot(y - u, x - v) - rng.uniform(5, 8)) / 1.5) ** 2))
        else:
            light = np.where(np.abs(x - v) < 1.5, -60.0, 0.0)
        return _bytes((image + light[..., None]) / 255)

    return sky[:300], sky[300:400], np.stack([fault(image, i % 3) for i, image in enumerate(sky[400:])])


def _buildings(rng: Rng) -> Made:
    """Pieces of a photograph of a palace; pieces of a flower's are anomalies."""
    from sklearn.datasets import load_sample_images

    palace, flower = (_tiles(image, 28, rng) for image in load_sample_images().images)
    return palace[:200], palace[200:], flower[:120]


def _retina(rng: Rng) -> Made:
    """The ground of an eye, in colour; a yellow spot or a bleeding is an anomaly."""
    photo = np.asarray(Image.fromarray(_photo("retina.jpg")).resize((706, 706), Image.Resampling.BOX))
    eye = _tiles(photo, 32, rng)
    eye = eye[eye.min((1, 2, 3)) > 8]  # the corners of the photograph are black
    y, x = np.mgrid[0:32, 0:32]

    def fault(image: Images, kind: int) -> Images:
        u, v = rng.uniform(9, 23, 2)
        spot = np.exp(-((np.hypot(y - u, x - v) / rng.uniform(2.5, 4.5)) ** 4))[..., None]
        other = (np.array([235, 215, 130]), np.array([90, 15, 15]))[kind]
        return _bytes((image * (1 - 0.8 * spot) + 0.8 * spot * other) / 255)

    n = len(eye)
    normal, spoilt = eye[n - 120 : n - 60], eye[n - 60 :]
    return eye[: n - 120], normal, np.stack([fault(image, i % 2) for i, image in enumerate(np.repeat(spoilt, 2, 0))])


def _gears(rng: Rng) -> Made:
    """Gears with ten teeth, in any direction; one tooth less or more, a broken tooth or no bore is an anomaly."""

    def draw(defect: int | None) -> Images:
        image = Image.new("L", (36 * FINE, 36 * FINE), 200)
        pen = ImageDraw.Draw(image)
        (x, y), radius, turn = rng.normal(18, 0.6, 2), rng.normal(13, 0.3), rng.uniform(0, 2 * math.pi)
        teeth = {0: 9, 1: 11}.get(defect if defect is not None else -1, 10)
        angles = np.arange(0, 2 * math.pi, 0.01)
        wave = np.clip(3 * np.cos(teeth * angles), -1, 1)
        if defect == 2:
            wave = np.where(angles < 2 * math.pi / teeth, -1, wave)
        radii = (radius + 1.6 * wave)[:, None] * FINE
        points = np.array([x, y]) * FINE + radii * np.stack([np.cos(angles + turn), np.sin(angles + turn)], 1)
        pen.polygon([tuple(point) for point in points], int(rng.normal(70, 6)))
        if defect != 3:
            pen.ellipse([(x - 4) * FINE, (y - 4) * FINE, (x + 4) * FINE, (y + 4) * FINE], 200)
        return _bytes(_reduced(image) / 255 + rng.normal(0, 0.02, (36, 36)))

    return _drawn(draw, 100, 150, 200, 4)


SUITE: dict[str, tuple[str, Callable[[Rng], Made]]] = {
    "digits": ("scikit-learn's digits, 3 against the others, grey 16×16, 120 normals", _digits),
    "clothes": ("Fashion-MNIST, shirts against the others, grey 28×28, 6,000 normals", _clothes),
    "faces": ("faces against pieces without, grey 25×25, 60 normals", _faces),
    "textures": ("grass against gravel and brick, grey 32×32, 160 normals", _textures),
    "bricks": ("a brick wall against damage to it, grey 32×32, 150 normals", _bricks),
    "photographs": ("pieces of one photograph against others, colour 24×24, 140 normals", _photographs),
    "tissue": ("stained tissue against faults of the slide, colour 32×32, 160 normals", _tissue),
    "glyphs": ("the letter R against others, grey 28×28, 500 normals", _glyphs),
    "shapes": ("triangles against other shapes, colour 32×32, 6,000 normals", _shapes),
    "fabric": ("a weave against its defects, grey 64×64, 300 normals", _fabric),
    "metal": ("brushed metal against its defects, colour 48×48, 200 normals", _metal),
    "scans": ("slices of a phantom against lesions, grey 48×48, 400 normals", _scans),
    "cells": ("cells against sick ones, colour 40×40, 2,000 normals", _cells),
    "washers": ("notched rings against faulty ones, grey 32×32, 50 normals", _washers),
    "boots": ("Fashion-MNIST, boots against the others, grey 28×28, 6,000 normals", _boots),
    "stars": ("deep sky against faults of the picture, colour 32×32, 300 normals", _stars),
    "buildings": ("pieces of a palace against a flower's, colour 28×28, 200 normals", _buildings),
    "retina": ("the ground of an eye against spots on it, colour 32×32, 212 normals", _retina),
    "gears": ("gears against faulty ones, grey 36×36, 100 normals", _gears),
}
"""Name → what it is, and how it is made."""
LAST_MADE = ("boots", "stars", "buildings", "retina", "gears")
"""Made after the robust preset was settled: nothing was chosen by looking at them."""


def _photo(name: str) -> Images:
    try:
        import skimage.data
    except ImportError:
        raise UnavailableError("scikit-image is not installed (pip install scikit-image)") from None
    path = Path(skimage.data.__file__).parent / name
    if not path.exists():
        raise UnavailableError(f"this scikit-image does not carry {name}")
    return np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.asarray(Image.open(path))


def _tiles(photo: Images, side: int, rng: Rng) -> Images:
    """A photograph cut up, in random order; no two tiles share a pixel."""
    rows, columns = photo.shape[0] // side, photo.shape[1] // side
    tiles = photo[: rows * side, : columns * side].reshape(rows, side, columns, side, *photo.shape[2:]).swapaxes(1, 2)
    return rng.permutation(tiles.reshape(rows * columns, *tiles.shape[2:]))


def _drawn(draw: Callable[[int | None], Images], train: int, normal: int, anomalous: int, kinds: int) -> Made:
    def many(n: int, defect: Callable[[int], int | None]) -> Images:
        return np.stack([draw(defect(i)) for i in range(n)])

    return many(train, lambda _: None), many(normal, lambda _: None), many(anomalous, lambda i: i % kinds)


def _damage(image: Images, rng: Rng) -> Images:
    damaged = image.copy()
    side, kind = int(rng.integers(8, 13)), int(rng.integers(3))
    y, x = rng.integers(0, image.shape[0] - side, 2)
    piece = damaged[y : y + side, x : x + side]
    if kind == 0:
        piece[:] = np.asarray(Image.fromarray(piece).filter(ImageFilter.GaussianBlur(3)))
    elif kind == 1:
        distance = np.hypot(*(np.mgrid[0:side, 0:side] - side / 2))
        spot = np.exp(-((distance / (side / 4)) ** 2))
        piece[:] = (piece * (1 - spot) + rng.choice([20, 235]) * spot).astype(np.uint8)
    else:
        piece[:] = np.roll(piece.T, side // 2, 0)
    return damaged


def _blurred(image: Images, rng: Rng) -> Images:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(rng.uniform(1.0, 2.0))))


def _hue_turned(image: Images, rng: Rng) -> Images:
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    hsv[..., 0] += np.uint8(rng.integers(40, 216))
    return np.asarray(Image.frombytes("HSV", image.shape[1::-1], hsv.tobytes()).convert("RGB"))


def _smeared(image: Images, rng: Rng) -> Images:
    distance = np.hypot(*(np.mgrid[0:32, 0:32] - rng.uniform(8, 24, 2)[:, None, None]))
    spot = np.exp(-((distance / rng.uniform(4, 8)) ** 4))[..., None]
    smeared: Images = (image * (1 - spot) + np.array([225, 225, 235]) * spot).astype(np.uint8)
    return smeared


def _reduced(image: Image.Image) -> Images:
    return np.asarray(image.resize((image.width // FINE, image.height // FINE), Image.Resampling.BOX))


def _bytes(image: NDArray[np.floating]) -> Images:
    pixels: Images = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    return pixels
