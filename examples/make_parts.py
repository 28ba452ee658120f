"""Draw a folder of parts: brackets with two bores, in colour, good ones and defective ones with masks.

    python examples/make_parts.py parts

writes parts/train/good, parts/test/{good,scratched,stained,no_bore}, parts/ground_truth/…, and parts/later/good: good
parts under a weaker light. Like photographs of real parts, the images differ a little in size, place, angle and light.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

FINE = 4
"""Drawn so many times larger, then reduced: edges are smooth."""
DEFECTS = ("scratched", "stained", "no_bore")


def draw_part(rng, defect=None, light=1.0):
    """One image and the mask of its defect, (H, W, 3) and (H, W), uint8."""
    width, height = (int(side) for side in rng.integers(70, 75, 2))
    size = (width * FINE, height * FINE)
    centre = np.array(size) / 2 + rng.normal(0, 1.2, 2) * FINE
    angle, scale = rng.normal(0, 0.05), FINE * rng.normal(1, 0.015) * min(width, height) / 72
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    def place(points):
        return [tuple(centre + scale * turn @ np.array(point)) for point in points]

    def disc(pen, point, radius, colour):
        (x, y), r = place([point])[0], radius * scale
        pen.ellipse([x - r, y - r, x + r, y + r], colour)

    table, steel = (96, 88, 76), tuple(int(value) for value in np.array([172, 178, 186]) + rng.normal(0, 3))
    image, mask = Image.new("RGB", size, table), Image.new("L", size)
    pen, marker = ImageDraw.Draw(image), ImageDraw.Draw(mask)
    pen.polygon(place([(-24, -22), (24, -22), (24, -4), (-4, -4), (-4, 24), (-24, 24)]), steel)
    for bore in [(14, -13), (-14, 14)]:
        if defect == "no_bore" and bore == (-14, 14):
            disc(marker, bore, 5.5, 255)
        else:
            disc(pen, bore, 5.5, table)
    on_part = place([rng.uniform([-21, -19], [6, 0])])[0]
    if defect == "scratched":
        bend = on_part + rng.normal(0, 4, 2) * FINE
        end = 2 * bend - on_part + rng.normal(0, 7, 2) * FINE
        for canvas, colour in ((pen, (232, 236, 240)), (marker, 255)):
            canvas.line([on_part, tuple(bend), tuple(end)], colour, int(1.6 * FINE))
    elif defect == "stained":
        radii = rng.uniform(3, 5.5, 2) * FINE
        for canvas, colour in ((pen, (130, 96, 62)), (marker, 255)):
            canvas.ellipse([*(on_part - radii), *(on_part + radii)], colour)
    image = image.filter(ImageFilter.GaussianBlur(0.6 * FINE)).resize((width, height), Image.Resampling.BOX)
    lit = np.asarray(image) * light * rng.normal(1, 0.02) + rng.normal(0, 2.5, (height, width, 3))
    marked = np.asarray(mask.resize((width, height), Image.Resampling.BOX)) > 127
    return np.clip(lit, 0, 255).astype(np.uint8), np.uint8(255 * marked)


def write_parts(folder, rng, n, defect=None, masks=None, light=1.0):
    """Write n images into a folder, and their masks, if they have any, into another."""
    for path in (folder, masks):
        if path:
            path.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        image, mask = draw_part(rng, defect, light)
        Image.fromarray(image).save(folder / f"{i:03}.png")
        if masks:
            Image.fromarray(mask).save(masks / f"{i:03}_mask.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--good", type=int, default=300, help="training images")
    parser.add_argument("--test", type=int, default=40, help="test images of each kind")
    options = parser.parse_args()
    root, rng = options.folder, np.random.default_rng(0)
    write_parts(root / "train/good", rng, options.good)
    write_parts(root / "test/good", rng, options.test)
    for defect in DEFECTS:
        write_parts(root / "test" / defect, rng, options.test, defect, root / "ground_truth" / defect)
    write_parts(root / "later/good", rng, max(100, options.test), light=0.93)
    print(
        f"{root}: {options.good} good parts to train on, "
        f"{options.test} good and {3 * options.test} defective to test on"
    )


if __name__ == "__main__":
    main()
