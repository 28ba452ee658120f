"""Damage on photographed surfaces: brick, grass and gravel, each learned from parts of one photograph.

The photographs come with scikit-image; nothing is downloaded. Each is cut into sixteen blocks: eight train, four set
the threshold, and four are tested on, as they are and with damage pasted in. So no test image shares a pixel with one
that trained. All the rest is the command line: train, calibrate, evaluate, report.
"""

import argparse
import datetime
import json
import math
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

TEXTURES = ("brick", "grass", "gravel")
SIDE, BLOCK = 64, 128
TEST_COLUMN, CALIBRATION_COLUMN = (1, 3, 0, 2), (3, 0, 2, 1)
"""Of each row of blocks, the column that is tested on, and the one that sets the threshold; the other two train."""
DAMAGES = ("scratch", "spot", "foreign", "other_surface")
ALOCC = Path(sys.executable).with_name("alocc")


def photograph(name):
    """One of scikit-image's photographs, (512, 512), uint8."""
    import skimage.data

    return np.asarray(Image.open(Path(skimage.data.__file__).parent / f"{name}.png"))


def patches(photo, use, step):
    """Patches (n, 64, 64) of the blocks of one use, ``step`` pixels apart."""
    cut = []
    for row in range(4):
        columns = {"test": [TEST_COLUMN[row]], "calibration": [CALIBRATION_COLUMN[row]]}
        taken = columns["test"] + columns["calibration"]
        columns["train"] = [column for column in range(4) if column not in taken]
        for column in columns[use]:
            block = photo[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK]
            starts = range(0, BLOCK - SIDE + 1, step)
            cut += [block[y : y + SIDE, x : x + SIDE] for y in starts for x in starts]
    return np.stack(cut)


def scratch(patch, rng, other):
    """A bent line, two pixels wide, brighter or darker than the surface."""
    image = Image.new("L", (SIDE * 4, SIDE * 4))
    start, angle = rng.uniform(16, 48, 2), rng.uniform(0, 2 * math.pi)
    along = np.linspace(-1, 1, 30) * rng.uniform(10, 20)
    bend = rng.uniform(-0.03, 0.03) * along**2
    x = start[0] + along * math.cos(angle) - bend * math.sin(angle)
    y = start[1] + along * math.sin(angle) + bend * math.cos(angle)
    ImageDraw.Draw(image).line([*zip(4 * x, 4 * y, strict=True)], 255, 9)
    share = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)) / 255
    return blended(patch, rng.choice([25, 235]), share)


def spot(patch, rng, other):
    """A soft dark or bright spot, through which the surface is still seen."""
    return blended(patch, rng.choice([25, 235]), 0.7 * blob(rng, rng.uniform(4, 8)))


def foreign(patch, rng, other):
    """A piece of another surface, blended in."""
    return blended(patch, other, blob(rng, rng.uniform(8, 13)))


def blob(rng, radius):
    """A round shape with a wavy, soft edge, (64, 64) in [0, 1]."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] - rng.uniform(14, SIDE - 14, 2)[:, None, None]
    edge = radius * (1 + 0.15 * np.sin(3 * np.arctan2(y, x) + rng.uniform(0, 6)))
    return 1 / (1 + np.exp(2 * (np.hypot(y, x) - edge)))


def blended(patch, other, share):
    """The damaged patch, and where it is damaged."""
    return (patch * (1 - share) + other * share).astype(np.uint8), share > 0.25 * share.max()


def write(folder, images):
    """One PNG an image."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03}.png")


def make_task(root, normal):
    """Write the folder of one task, laid out as industrial sets are."""
    rng = np.random.default_rng(TEXTURES.index(normal))
    photo = photograph(normal)
    others = [patches(photograph(name), "test", 32) for name in TEXTURES if name != normal]
    write(root / "train/good", patches(photo, "train", 8))
    write(root / "calibration", patches(photo, "calibration", 16))
    fresh = patches(photo, "test", 32)
    write(root / "test/good", fresh)
    write(root / "test/other_surface", np.concatenate([other[::2] for other in others]))
    for damage in (scratch, spot, foreign):
        made = [damage(patch, rng, rng.choice(others[i % 2])) for i, patch in enumerate(fresh)]
        write(root / "test" / damage.__name__, [image for image, _ in made])
        write(root / "ground_truth" / damage.__name__, [np.uint8(255 * mask) for _, mask in made])
        for path in (root / "ground_truth" / damage.__name__).glob("???.png"):
            path.rename(path.with_stem(f"{path.stem}_mask"))


def alocc(*words):
    """One command of alocc; what it prints as JSON, if asked for."""
    print("$ alocc", *words, flush=True)
    done = subprocess.run([ALOCC, *map(str, words)], check=True, stdout=subprocess.PIPE if "--json" in words else None)
    return json.loads(done.stdout) if done.stdout else None


def measure(root, normal, iterations):
    """Make the task, train, set the threshold, compare, report: the figures of one surface, by damage and of all."""
    data, run, start = root / normal, root / f"run-{normal}", time.perf_counter()
    make_task(data, normal)
    alocc("train", data, "--out", run, "--overwrite", "--again", *(["--iterations", iterations] if iterations else []))
    alocc("calibrate", run, data / "calibration")
    figures = alocc("evaluate", run, data, "--json")
    alocc("report", run, data)
    return (
        {"all": figures} | {one["name"]: one for one in figures["classes"]} | {"seconds": time.perf_counter() - start}
    )


def tables(measured):
    """The figures as two tables in Markdown."""
    lines = [
        "| normal surface | image AUROC (95 %) | pixel AUROC | per-region overlap | FPR at alpha | seconds |",
        "|" + "---|" * 6,
    ]
    for normal, figures in measured.items():
        every = figures["all"]
        low, high = every["intervals"]["auroc"]
        rate = (1 - every["normal_as_positive"]["recall"]) * every["n_normal"]
        lines.append(
            f"| {normal} | {every['auroc']:.3f} ({low:.3f} to {high:.3f}) | {every['pixel_auroc']:.3f} "
            f"| {every['pro']:.3f} | {rate:.0f} of {every['n_normal']} at {every['alpha']:g} "
            f"| {figures['seconds']:.0f} |"
        )
    lines += ["", "By damage, image AUROC / pixel AUROC / share found at that alpha:", ""]
    lines += ["| normal surface | " + " | ".join(DAMAGES).replace("_", " ") + " |", "|" + "---|" * (1 + len(DAMAGES))]
    for normal, figures in measured.items():
        cells = [
            f"{one['auroc']:.3f} / {one['pixel_auroc']:.3f} / {one['share_called']:.2f}"
            if "pixel_auroc" in one
            else f"{one['auroc']:.3f} / no mask / {one['share_called']:.2f}"
            for one in (figures[damage] for damage in DAMAGES)
        ]
        lines.append(f"| {normal} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("iterations", nargs="?", type=int, help="fewer than the preset's, for a quick look")
    parser.add_argument("--out", type=Path, default=Path("textures"), help="folder of images, runs and reports")
    parser.add_argument("--normal", nargs="+", default=TEXTURES, choices=TEXTURES)
    parser.add_argument("--processes", type=int, default=2, help="surfaces that run side by side")
    parser.add_argument("--page", type=Path, help="Markdown page to write as well")
    options = parser.parse_args()
    if min(options.processes, len(options.normal)) > 1:
        os.environ["OMP_NUM_THREADS"] = "1"  # surfaces run side by side
    start = time.perf_counter()
    with ThreadPoolExecutor(options.processes) as pool:
        measured = pool.map(lambda normal: measure(options.out, normal, options.iterations), options.normal)
        found = tables(dict(zip(options.normal, measured, strict=True)))
    print(found)
    print(f"{time.perf_counter() - start:.0f} s in all")
    if options.page:
        notes = Path(__file__).with_name("textures_notes.md").read_text(encoding="utf-8")
        facts = f"{platform.machine()}, {options.processes} processes of one thread, {datetime.date.today()}"
        options.page.write_text(notes.replace("{tables}", found).replace("{facts}", facts), encoding="utf-8")


if __name__ == "__main__":
    main()
