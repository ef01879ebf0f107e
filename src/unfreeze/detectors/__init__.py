"""Builds a detector from a config and weights. This is the only package that knows both."""

from unfreeze.detectors.build import build_detector
from unfreeze.detectors.detector import PORTABLE, Detector, Forms

__all__ = ["PORTABLE", "Detector", "Forms", "build_detector"]
