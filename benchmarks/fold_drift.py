"""What folds do to the test behind ``alocc monitor``: docs/decisions/0020-folds-are-no-drift.md.

    python benchmarks/fold_drift.py

Trains on few ones of MNIST, scores 4,000 others by each fold's networks and by both, and draws held-out and new images
from them, again and again: how often is p below 0.05, 0.01 and 0.001, with nothing tolerated and with TOLERATED?
"""

import copy
from dataclasses import replace

import numpy as np
from scipy.stats import ks_2samp, kstwo

from alocc.data.mnist import load_mnist
from alocc.detector import Detector
from alocc.evaluation.monitoring import TOLERATED
from alocc.training.run import train

TRAININGS = ((40, 0), (40, 1), (40, 2), (100, 0), (100, 1), (200, 0), (200, 1), (800, 0))
WINDOWS, DRAWS, LEVELS = (100, 1_000, 2_000), 2_000, (0.05, 0.01, 0.001)


def with_pair(detector: Detector, fold: int) -> Detector:
    """The detector with the networks of one fold alone."""
    scorer = copy.deepcopy(detector.scorer)
    scorer.R = scorer.R[fold : fold + 1]
    scorer.parts["d"].networks = scorer.parts["d"].networks[fold : fold + 1]
    return replace(detector, scorer=scorer)


def main() -> None:
    images, _ = load_mnist("train", ["1"])
    for n, seed in TRAININGS:
        order = np.random.default_rng(seed).permutation(len(images))
        detector, fresh = train(images[order[:n]], seed=seed, iterations=60), images[order[n : n + 4_000]]
        both = detector.score(fresh).anomaly_score
        first, second = (with_pair(detector, fold).score(fresh).anomaly_score for fold in (0, 1))
        distance = ks_2samp(np.concatenate([first, second]), both).statistic
        print(f"{n} images, seed {seed}: distance {distance:.3f}")
        rng = np.random.default_rng(1)
        for window in WINDOWS:
            size, p_values = round(n * window / (n + window)), []
            for _ in range(DRAWS):
                chosen = rng.permutation(len(fresh))
                held_out = np.concatenate([first[chosen[: n // 2]], second[chosen[n // 2 : n]]])
                found = ks_2samp(held_out, both[chosen[n : n + window]], method="asymp").statistic
                p_values.append([kstwo.sf(max(0.0, found - by), size) for by in (0, TOLERATED)])
            shares = [[float((np.array(p_values)[:, i] < level).mean()) for level in LEVELS] for i in (0, 1)]
            print(
                f"  {window} new images: p below {LEVELS}: {shares[0]}; with {TOLERATED} tolerated: {shares[1]}",
                flush=True,
            )


if __name__ == "__main__":
    main()
