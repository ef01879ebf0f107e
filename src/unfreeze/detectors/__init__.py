"""Config and weights in, a detector out: the only room that sees both."""

from unfreeze.detectors.build import build_detector
from unfreeze.detectors.detector import Detector, Forms

__all__ = ["Detector", "Forms", "build_detector"]
