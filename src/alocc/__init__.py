"""One-class image novelty detection that people can trust: ALOCC, made reliable.

    detector = alocc.train("good_parts/", out="run")
    scores = alocc.Detector.load("run").score(images)
    scores.is_anomaly
"""
from alocc.detector import Detector, Scores
from alocc.training.run import train
__all__ = ["Detector", "Scores", "train"]
