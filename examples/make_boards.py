"""Draw photographs of assembled boards, 200×150, good ones and ones with eight kinds of fault, with masks.

    python examples/make_boards.py boards

writes boards/train/good, boards/test/good, boards/test/<fault> and boards/ground_truth/<fault>. Like photographs, the
images differ a little in place, light, focus and noise. Faults are 4 to 25 pixels across.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT, FINE = 200, 150, 3
CHIPS = ((34, 40, 26, 26), (96, 34, 34, 18), (150, 48, 20, 32), (60, 104, 40, 22))
"""Centre, width and height of each chip."""
PARTS = ((112, 78), (126, 78), (140, 84), (112, 96), (126, 96), (20, 84), (20, 98), (160, 104), (174, 104), (160, 120))
"""Centres of the small parts, 8×4 pixels."""
PADS = tuple((x, 140) for x in range(20, 190, 12))
FAULTS = ("missing_part", "turned_part", "bridge", "scratch", "stain", "hole", "lifted_chip", "debris")
GREEN, TRACK, CHIP, TIN, PART = (24, 92, 58), (52, 132, 84), (34, 34, 38), (196, 198, 200), (150, 118, 78)


class Canvas:
    """An image and a mask, drawn together, several times as large as in the end."""

    def __init__(self):
        self.image = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), GREEN)
        self.mask = Image.new("L", self.image.size)

    def box(self, x, y, width, height, colour, is_fault=False, turn=0.0):
        corners = np.array([(-width, -height), (width, -height), (width, height), (-width, height)]) / 2
        turned = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        self._draw("polygon", [tuple(corner) for corner in FINE * (turned + np.array((x, y)))], colour, is_fault)

    def ellipse(self, x, y, width, height, colour, is_fault=False):
        x, y, width, height = (FINE * value for value in (x, y, width, height))
        self._draw("ellipse", [x - width / 2, y - height / 2, x + width / 2, y + height / 2], colour, is_fault)

    def line(self, points, thickness, colour, is_fault=False):
        points = [tuple(FINE * np.array(point)) for point in points]
        for picture, ink in self._layers(colour, is_fault):
            ImageDraw.Draw(picture).line(points, ink, round(FINE * thickness), joint="curve")

    def _draw(self, shape, points, colour, is_fault):
        for picture, ink in self._layers(colour, is_fault):
            getattr(ImageDraw.Draw(picture), shape)(points, ink)

    def _layers(self, colour, is_fault):
        return [(self.image, colour), (self.mask, 255)][: 2 if is_fault else 1]


def draw_board(rng, fault=None):
    """One image and the mask of its fault, (150, 200, 3) and (150, 200), uint8."""
    canvas = Canvas()
    for y in (14, 62, 70, 128):
        canvas.line([(8, y), (70, y), (82, y + 6), (190, y + 6)], 2, TRACK)
    for x in (48, 82, 136, 186):
        canvas.line([(x, 16), (x, 60), (x + 4, 68), (x + 4, 134)], 2, TRACK)
    for pad in PADS:
        canvas.box(*pad, 7, 9, TIN)
    chosen = {"missing_part": rng.integers(len(PARTS)), "turned_part": rng.integers(len(PARTS)),
              "lifted_chip": rng.integers(len(CHIPS))}  # fmt: skip
    for i, chip in enumerate(CHIPS):
        _draw_chip(canvas, rng, *chip, is_lifted=fault == "lifted_chip" and i == chosen[fault])
    for i, (x, y) in enumerate(PARTS):
        if fault == "missing_part" and i == chosen[fault]:
            canvas.box(x, y, 13, 5, GREEN, is_fault=True)
            for side in (-5, 5):
                canvas.box(x + side, y, 3, 4, TIN)
            continue
        is_turned = fault == "turned_part" and i == chosen[fault]
        turn = rng.normal(0, 0.03) + (rng.choice([-1, 1]) * rng.uniform(0.5, 1.2) if is_turned else 0.0)
        canvas.box(x, y, 13, 5, TIN, is_turned, turn)
        canvas.box(x, y, 8, 5, PART, is_turned, turn)
    x, y = rng.uniform([20, 15], [180, 125])
    if fault == "bridge":
        (x, y), (end, _) = PADS[(at := rng.integers(len(PADS) - 1))], PADS[at + 1]
        canvas.line([(x, y + rng.uniform(-3, 3)), (end, y + rng.uniform(-3, 3))], 3.5, TIN, is_fault=True)
    elif fault == "scratch":
        steps = np.cumsum(rng.normal(0, 2, (5, 2)) + rng.choice([-1, 1], 2) * (5, 3), 0)
        canvas.line([(x, y), *(np.array((x, y)) + steps)], 1.4, (170, 190, 176), is_fault=True)
    elif fault == "stain":
        canvas.ellipse(x, y, rng.uniform(9, 18), rng.uniform(7, 14), (70, 78, 44), is_fault=True)
    elif fault == "hole":
        size = rng.uniform(4, 7)
        canvas.ellipse(x, y, size, size, (8, 10, 10), is_fault=True)
    elif fault == "debris":
        bend = rng.uniform(-7, 7, (2, 2))
        canvas.line(
            [(x, y), tuple((x, y) + bend[0]), tuple((x, y) + bend[0] + bend[1])], 2.2, (206, 176, 96), is_fault=True
        )
    return _photographed(canvas, rng)


def _draw_chip(canvas, rng, x, y, width, height, is_lifted):
    turn = rng.normal(0, 0.01) + (rng.choice([-1, 1]) * rng.uniform(0.09, 0.16) if is_lifted else 0.0)
    for along in np.linspace(-0.4, 0.4, 5):
        canvas.box(x + along * width, y, 2.5, height + 8, TIN)
    canvas.box(x, y, width, height, CHIP, is_lifted, turn)
    canvas.ellipse(x - 0.35 * width, y - 0.3 * height, 3, 3, (90, 90, 96))
    canvas.line([(x - 0.2 * width, y), (x + 0.3 * width, y)], 1.2, (120, 120, 124))


def _photographed(canvas, rng):
    """Blurred, shifted by up to a pixel, lit and with noise."""
    shift = rng.normal(0, 0.4, 2) * FINE
    moved = [
        picture.transform(picture.size, Image.Transform.AFFINE, (1, 0, shift[0], 0, 1, shift[1]), fillcolor=ground)
        for picture, ground in ((canvas.image, GREEN), (canvas.mask, 0))
    ]
    blurred = moved[0].filter(ImageFilter.GaussianBlur(FINE * rng.uniform(0.5, 0.8)))
    pixels = np.asarray(blurred.resize((WIDTH, HEIGHT), Image.Resampling.BOX)).astype(float)
    light = rng.normal(1, 0.03) * (1 + rng.normal(0, 0.03) * np.linspace(-1, 1, WIDTH))[None, :, None]
    lit = pixels * light + rng.normal(0, 3, pixels.shape)
    marked = np.asarray(moved[1].resize((WIDTH, HEIGHT), Image.Resampling.BOX)) > 127
    return lit.clip(0, 255).astype(np.uint8), np.uint8(255 * marked)


def write_boards(folder, rng, n, fault=None, masks=None):
    """Write n images into a folder, and their masks, if they have any, into another."""
    for path in (folder, masks):
        if path:
            path.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        image, mask = draw_board(rng, fault)
        Image.fromarray(image).save(folder / f"{i:03}.png")
        if masks:
            Image.fromarray(mask).save(masks / f"{i:03}_mask.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--good", type=int, default=240, help="training images")
    parser.add_argument(
        "--test", type=int, default=20, help="test images of each kind of fault, and twice as many good ones"
    )
    options = parser.parse_args()
    root, rng = options.folder, np.random.default_rng(0)
    write_boards(root / "train/good", rng, options.good)
    write_boards(root / "test/good", rng, 2 * options.test)
    for fault in FAULTS:
        write_boards(root / "test" / fault, rng, options.test, fault, root / "ground_truth" / fault)
    n_good, n_faulty = 2 * options.test, len(FAULTS) * options.test
    print(f"{root}: {options.good} good boards to train on, {n_good} good and {n_faulty} faulty to test on")


if __name__ == "__main__":
    main()
