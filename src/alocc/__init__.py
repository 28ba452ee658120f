"""One-class image novelty detection that people can trust: ALOCC, made reliable.

::

    detector = alocc.train("good_parts/", out="run")
    scores = alocc.Detector.load("run").score(images)
    scores.anomaly_score, scores.p_value, scores.is_anomaly
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alocc.config import Config, preset
    from alocc.detector import Detector
    from alocc.errors import AloccError, ArtefactError, ConfigError, DataError, InputError, NonFiniteLossError
    from alocc.estimator import ALOCC
    from alocc.scores import Scores
    from alocc.training.run import train

__version__ = "0.1.0"
__all__ = [
    "ALOCC",
    "AloccError",
    "ArtefactError",
    "Config",
    "ConfigError",
    "DataError",
    "Detector",
    "InputError",
    "NonFiniteLossError",
    "Scores",
    "preset",
    "train",
]

if "torch" not in sys.modules and not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
    os.environ["GOMP_SPINCOUNT"] = "10000"  # see docs/decisions/0009; read when torch is loaded

_HOME = {
    "ALOCC": "estimator",
    "AloccError": "errors",
    "ArtefactError": "errors",
    "Config": "config",
    "ConfigError": "errors",
    "DataError": "errors",
    "Detector": "detector",
    "InputError": "errors",
    "NonFiniteLossError": "errors",
    "Scores": "scores",
    "preset": "config",
    "train": "training.run",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: ``import alocc`` itself costs next to nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'alocc' has no attribute {name!r}")
    try:
        home = import_module(f"alocc.{_HOME[name]}")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("alocc"):
            raise
        raise ImportError(f"alocc-runtime scores exported files alone; alocc.{name} needs the whole of alocc") from None
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
