"""Shares of fresh normal images called anomalies, on thousands of images for each drawn set of the suite.

The suite's own test sets have 100 to 200 normal images, too few to tell a kept promise from luck. A drawn set has no
end: it is drawn again from other seeds, all of it fresh.

    python benchmarks/fresh.py RESULTS
"""

import argparse
import json
from pathlib import Path

import numpy as np

from alocc.benchmark.suite import SUITE, load_suite_set
from alocc.storage import write_text
from alocc.training.run import train

DRAWN = ("cells", "fabric", "gears", "metal", "scans", "washers")
ALPHAS = (0.01, 0.05, 0.1)
N_FRESH = 2000
N_SEEDS = 3


def fresh_normals(name: str) -> np.ndarray:
    """Normal images that no detector has met, (n, H, W[, C]), uint8."""
    make, images, n = SUITE[name][1], [], 0
    for seed in range(1, 1000):
        normals = np.concatenate(make(np.random.default_rng(seed))[:2])
        images.append(normals)
        n += len(normals)
        if n >= N_FRESH:
            break
    return np.concatenate(images)[:N_FRESH]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    out = parser.parse_args().results / "fresh.json"
    runs = json.loads(out.read_text(encoding="utf-8")) if out.exists() else []
    for name in DRAWN:
        fresh = fresh_normals(name)
        for seed in range(N_SEEDS):
            if any((run["set"], run["seed"]) == (name, seed) for run in runs):
                continue
            detector = train(load_suite_set(name).train, seed=seed)
            p_value = detector.score(fresh).p_value
            shares = {f"{alpha:g}": float((p_value <= alpha).mean()) for alpha in ALPHAS}
            runs.append({"set": name, "seed": seed, "n_held_out": len(detector.held_out_scores), "shares": shares})
            out.parent.mkdir(parents=True, exist_ok=True)
            write_text(out, json.dumps(runs, indent=1))
            print(runs[-1], flush=True)


if __name__ == "__main__":
    main()
