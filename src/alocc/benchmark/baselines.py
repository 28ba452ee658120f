"""The baselines: each learns from normal images as rows of pixels and gives higher scores to more anomalous ones.

Every baseline runs with its library's defaults, or with the setting that the literature takes where that is named.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alocc.calibration import FloatArray
from alocc.errors import ConfigError
from alocc.networks import lite0

Scorer = Callable[[FloatArray], FloatArray]
Fit = Callable[[FloatArray, int], Scorer]


def _neighbours(x: FloatArray, seed: int) -> Scorer:
    """Mean distance to the five nearest training images."""
    from sklearn.neighbors import NearestNeighbors

    fitted = NearestNeighbors(n_neighbors=min(5, len(x))).fit(x)
    return lambda y: np.asarray(fitted.kneighbors(y)[0].mean(1))


def _pca(x: FloatArray, seed: int) -> Scorer:
    """Squared error of the reconstruction from 60 principal components, fewer for few images."""
    from sklearn.decomposition import PCA

    fitted = PCA(min(60, len(x) // 2, x.shape[1]), random_state=seed).fit(x)
    return lambda y: np.asarray(np.square(y - fitted.inverse_transform(fitted.transform(y))).mean(1))


def _negated(fitted: Any) -> Scorer:
    """Anomaly scores of a detector of scikit-learn, whose own are higher for normal rows."""
    return lambda y: -np.asarray(fitted.score_samples(y))


def _one_class_svm(x: FloatArray, seed: int) -> Scorer:
    from sklearn.svm import OneClassSVM

    return _negated(OneClassSVM(nu=0.1).fit(x))


def _isolation_forest(x: FloatArray, seed: int) -> Scorer:
    from sklearn.ensemble import IsolationForest

    return _negated(IsolationForest(random_state=seed).fit(x))


def _lof(x: FloatArray, seed: int) -> Scorer:
    from sklearn.neighbors import LocalOutlierFactor

    return _negated(LocalOutlierFactor(n_neighbors=min(20, len(x) - 1), novelty=True).fit(x))


def fit_pyod(name: str, x: FloatArray, seed: int, epochs: int = 20) -> Scorer:
    """A deep model of PyOD with its defaults."""
    module, model_class = PYOD[name]
    options = {"n_features": x.shape[1], "epochs": epochs} if name == "pyod-dsvdd" else {"epoch_num": epochs}
    model = getattr(importlib.import_module(module), model_class)(random_state=seed, verbose=0, **options)
    model.fit(x)
    return lambda y: np.asarray(model.decision_function(y))


PYOD = {
    "pyod-ae": ("pyod.models.auto_encoder", "AutoEncoder"),
    "pyod-vae": ("pyod.models.vae", "VAE"),
    "pyod-dsvdd": ("pyod.models.deep_svdd", "DeepSVDD"),
}
NEED_LITE0 = ("patchcore-like", "padim-like")
"""Baselines of places (:mod:`alocc.benchmark.folders`)."""
CLASSICAL: dict[str, Fit] = {
    "5-nn": _neighbours,
    "pca": _pca,
    "ocsvm": _one_class_svm,
    "iforest": _isolation_forest,
    "lof": _lof,
}
BASELINES: dict[str, Fit] = CLASSICAL | {name: partial(fit_pyod, name) for name in PYOD}


def check_installed(name: str) -> None:
    """Refuse a baseline before anything is run, not after hours.

    Raises:
        ConfigError: if its library is not installed.
    """
    if name in NEED_LITE0:
        lite0.check_installed()
    if name in PYOD and not all(importlib.util.find_spec(library) for library in ("pyod", "tqdm")):
        raise ConfigError(f"{name} needs PyOD (in the clone: pip install '.[baselines]')")


def fit_baseline(name: str, images: NDArray[np.uint8], seed: int) -> Callable[[NDArray[np.uint8]], FloatArray]:
    """Fit a baseline on normal images; the result scores images of the same size."""
    scorer = BASELINES[name](_rows(images), seed)
    return lambda others: scorer(_rows(others))


def _rows(images: NDArray[np.uint8]) -> FloatArray:
    return images.reshape(len(images), -1) / 255.0
