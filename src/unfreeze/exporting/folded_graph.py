"""Writes the graph of an export with its weights folded, as all other formats have them."""

from __future__ import annotations

from pathlib import Path

from unfreeze.callbacks import ignore
from unfreeze.config import read_pipeline_config, with_keypoint_labels
from unfreeze.detectors import PORTABLE, build_detector
from unfreeze.detectors.build import generation
from unfreeze.detectors.mismatch_diagnosis import likely_causes
from unfreeze.formats.frozen import freeze
from unfreeze.model_paths import find_config_of_export
from unfreeze.savedmodel import trace
from unfreeze.weights import Weights, open_export
from unfreeze.weights.bindings import STAND_INS


def write_folded_graph(saved_model: Path, folder: Path) -> Path:
    """Writes the frozen graph of an export whose weights are variables into a folder; returns its path.

    Raises: ConfigError: it has no pipeline.config. CheckpointError: its weights are constants already.
    """
    config_path = find_config_of_export(saved_model, None)
    config = read_pipeline_config(config_path)
    weights = Weights(open_export(saved_model, generation(config)), STAND_INS)
    labeled = with_keypoint_labels(config, config_path.parent, None, ignore)
    exportable = trace(build_detector(labeled, weights, PORTABLE))
    weights.require_fit(likely_causes(config))
    return freeze(exportable, (None, None, None, 3), folder, weights.constants).path
