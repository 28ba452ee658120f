"""Train on arrays, keep the detector in a file, score new images with it."""

import sys
import tempfile
from pathlib import Path

import alocc
from alocc.data.mnist import load_mnist

iterations = int(sys.argv[1]) if len(sys.argv) > 1 else None  # fewer than the preset's, for a quick look

ones, _ = load_mnist("train", ["1"])  # (6742, 28, 28), uint8: any array of normal images will do
detector = alocc.train(ones, iterations=iterations, alpha=0.01)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "ones.safetensors"
    detector.save(path)
    detector = alocc.Detector.load(path)

images, digits = load_mnist("test", ["0", "1"])
scores = detector.score(images)
for digit in ("0", "1"):
    flagged = scores.is_anomaly[digits == digit].mean()
    print(f"digit {digit}: {flagged:.1%} called anomalous")
