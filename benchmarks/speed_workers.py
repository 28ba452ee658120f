"""What the speed benchmark runs in processes of their own, so that start-up and memory count; prints one line of JSON.

speed_workers.py baseline METHOD TASK EPOCHS | training SIDE BATCH ITERATIONS | scoring MODEL SIDE BATCH TIMES
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

COMPONENTS = 60
Result = dict[str, Any]


def peak_mb() -> float:
    """Peak of this process's resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def baseline(method: str, task: str, epochs: str) -> Result:
    """Fit a peer on a digit, then score the test images."""
    from alocc.data.mnist import load_mnist

    normal, anomalous, _ = json.loads(task)
    images, _ = load_mnist("train", [normal])
    score = _fitted(method, images.reshape(len(images), -1) / 255.0, int(epochs))
    trained_at, trained_mb = time.time(), peak_mb()

    from sklearn.metrics import roc_auc_score

    tested, digits = load_mnist("test", [normal, *anomalous])
    anomaly_score = score(tested.reshape(len(tested), -1) / 255.0)
    figure = float(roc_auc_score(digits != normal, anomaly_score))
    return {"trained_at": trained_at, "auroc": figure, "trained_mb": trained_mb, "scored_mb": peak_mb()}


def _fitted(method: str, x: np.ndarray, epochs: int) -> Callable[[np.ndarray], np.ndarray]:
    from alocc.benchmark.baselines import BASELINES, PYOD, fit_pyod

    if method == "lof-pca":
        from sklearn.decomposition import PCA
        from sklearn.neighbors import LocalOutlierFactor
        from sklearn.pipeline import make_pipeline

        pipeline = make_pipeline(PCA(COMPONENTS, random_state=0), LocalOutlierFactor(novelty=True)).fit(x)
        return lambda y: -pipeline.score_samples(y)
    return fit_pyod(method, x, 0, epochs) if method in PYOD else BASELINES[method](x, 0)


def training(side: str, batch: str, iterations: str) -> Result:
    """The article's networks on images of a side: time of an iteration, and memory."""
    from article_programs import start_alocc
    from measuring import median_ms

    from alocc.config import preset, with_values

    config = with_values(preset("article"), {"training": {"batch_size": int(batch)}}, source="bench")
    iterate = start_alocc(smooth_images(max(64, int(batch)), int(side)), config).iterate
    return {"ms": median_ms(iterate, int(iterations)), "peak_mb": peak_mb()}


def scoring(model: str, side: str, batch: str, times: str) -> Result:
    """A run folder or an exported file on images of a side: time of a batch, and memory."""
    from measuring import median_ms

    images = smooth_images(int(batch), int(side))
    if Path(model).is_dir():
        from alocc import Detector

        score = Detector.load(model).score
    else:
        from alocc.runtime import Runtime

        score = Runtime(model).score
    return {"ms": median_ms(lambda: score(images), int(times)), "peak_mb": peak_mb()}


def smooth_images(n: int, side: int) -> np.ndarray:
    """Images of soft random patches, (n, side, side), uint8; speed does not depend on what they show."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, 8, 8), dtype=np.uint8)
    index = np.arange(side) * 8 // side
    return np.ascontiguousarray(coarse[:, index][:, :, index])


if __name__ == "__main__":
    name, *words = sys.argv[1:]
    print(json.dumps({"baseline": baseline, "training": training, "scoring": scoring}[name](*words)))
