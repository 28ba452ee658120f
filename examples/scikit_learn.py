"""The scikit-learn face: the usual contract of an outlier detector, on images."""

import sys

from sklearn.metrics import roc_auc_score

from alocc import ALOCC
from alocc.data.mnist import load_mnist

iterations = int(sys.argv[1]) if len(sys.argv) > 1 else None

ones, _ = load_mnist("train", ["1"])
images, digits = load_mnist("test", ["0", "1"])

model = ALOCC(alpha=0.05, iterations=iterations, random_state=0).fit(ones)
print("AUROC:", roc_auc_score(digits == "0", -model.score_samples(images)))
print("outliers:", int((model.predict(images) == -1).sum()), "of", len(images))
