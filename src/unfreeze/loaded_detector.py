"""A detector as a Python object: run it, look at its stages, train it, save it again as a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from unfreeze.config import PipelineConfig, format_pipeline_config, read_pipeline_config, with_keypoint_labels
from unfreeze.detectors import Detector, Forms, build_detector
from unfreeze.detectors.build import generation, suppression_form
from unfreeze.detectors.mismatch_diagnosis import likely_causes
from unfreeze.errors import CheckpointError, OutputError, UnsupportedError
from unfreeze.model_paths import CONFIG, find_config_of_export, find_pipeline_config, is_graph_path, saved_model_folder
from unfreeze.savedmodel import Exportable, trace
from unfreeze.staging import output_error, staged
from unfreeze.weights import Checkpoint, Weights, open_checkpoint, open_export
from unfreeze.weights.saving import write_checkpoint

TRUE_SHAPES = "true_image_shapes"
ANOTHER_PREFIX = "choose another prefix"

Tensors = dict[str, tf.Tensor]


class Preprocessed(NamedTuple):
    """Images as the network takes them.

    `images`: float32 [N, h, w, C], resized and normalized. `true_shapes`: int32 [N, 3], the height, width and channels
    of each image within it; what is beyond is padding.
    """

    images: tf.Tensor
    true_shapes: tf.Tensor


class Variables(tuple[tf.Variable, ...]):
    """Variables in the order of the network; `variables["FeatureExtractor/…/weights"]` is the one of that name."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        for variable in self:
            if variable.name.removesuffix(":0") == key:
                return variable
        raise KeyError(key)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the variables in the checkpoint."""
        return tuple(variable.name.removesuffix(":0") for variable in self)


class LoadedDetector(tf.Module):
    """A detector on the weights of a checkpoint; see `load_detector`.

    `detector(images)` is `postprocess(predict(preprocess(images)))`. Everything works eagerly and in a `tf.function`,
    and a gradient flows from every stage to the variables that it depends on.
    """

    def __init__(self, detector: Detector, traced: Exportable, weights: Weights, config: PipelineConfig) -> None:
        super().__init__(name="detector")
        self._detector = detector
        self._traced = traced
        self._weights = weights
        self._config = config
        self._tracked = list(weights.variables.values())  # for tf.train.Checkpoint

    @property
    def config(self) -> PipelineConfig:
        """The `TrainEvalPipelineConfig` message that it was built from."""
        return self._config

    @property
    def side_inputs(self) -> Mapping[str, tf.TensorSpec]:
        """What `predict` and `__call__` take besides images, by name (a Context R-CNN's), N first."""
        return self._detector.side_inputs

    @property
    def variables(self) -> Variables:
        """Every variable of the network, by the checkpoint's name; none with `weights="constants"`."""
        return Variables(self._tracked)

    @property
    def trainable_variables(self) -> Variables:
        """The variables that a training changes: all but moving statistics and ranges of quantization.

        There are none unless the detector was loaded with `weights="trainable"`.
        """
        return Variables(variable for variable in self._tracked if variable.trainable)

    def preprocess(self, images: Any) -> Preprocessed:
        """Resizes and normalizes images as the config says.

        Args:
            images: [N, H, W, 3], RGB, uint8, or float32 of 0 to 255, also for models of gray images.

        Raises: ValueError: `images` are not of that shape.
        """
        images = tf.convert_to_tensor(images)
        if images.shape.rank != 4 or images.shape[3] not in (3, None):
            raise ValueError(f"images have the shape {images.shape}; pass [N, H, W, 3], such as images[tf.newaxis]")
        if images.dtype != tf.uint8:
            images = tf.cast(images, tf.float32)
        return Preprocessed(*self._detector.preprocess(images))

    def predict(self, preprocessed: Preprocessed, *, training: bool = False, **side_inputs: Any) -> Tensors:
        """Runs the network; returns its stages by name.

        SSD: `feature_map_0` and so on, `box_encodings` [N, A, 4], `class_predictions_with_background` [N, A, K + 1]
        (logits), `anchors` [A, 4]. Faster R-CNN and R-FCN: also those of the first stage, `rpn_box_encodings` and so
        on. CenterNet: the heads, such as `object_center` [N, h, w, K] (logits). `true_image_shapes` is included, since
        `postprocess` needs it.

        Args:
            preprocessed: what `preprocess` returns.
            training: batch normalization uses the statistics of the batch and updates the moving statistics with
                the decay of the config, except where the config freezes it (`freeze_batchnorm`,
                `batch_norm { train: false }`, `batch_norm_trainable: false`).
            side_inputs: the tensors that the property `side_inputs` lists.

        Raises: UnsupportedError: `training` with weights that are not trainable, or with a quantization-aware model.
        """
        images, true_shapes = preprocessed
        with self._batch_statistics(training):
            stages = self._detector.predict(images, true_shapes, **self._side_tensors(side_inputs))
        return {**stages, TRUE_SHAPES: true_shapes}

    def postprocess(self, outputs: Mapping[str, tf.Tensor]) -> Tensors:
        """Turns the stages of `predict` into detections, with the names and shapes of the exported SavedModel.

        `detection_boxes` [N, D, 4] (ymin, xmin, ymax, xmax, normalized), `detection_scores` [N, D],
        `detection_classes` [N, D] (from 1), `num_detections` [N], `raw_detection_boxes`, `raw_detection_scores` and the
        other outputs of the model; all are float32.
        """
        stages = dict(outputs)
        true_shapes = stages.pop(TRUE_SHAPES)
        return self._detector.postprocess(stages, true_shapes)

    def __call__(self, images: Any, *, training: bool = False, **side_inputs: Any) -> Tensors:
        """Detects objects in images [N, H, W, 3]; see `preprocess`, `predict` and `postprocess`."""
        preprocessed = self.preprocess(images)
        if training:
            return self.postprocess(self.predict(preprocessed, training=True, **side_inputs))
        outputs: Tensors = self._traced.detect(*preprocessed, *self._side_tensors(side_inputs).values())
        return outputs

    def save_checkpoint(self, prefix: str | Path) -> Path:
        """Writes the weights as a checkpoint in the format of the loaded one, which `unfreeze export` takes.

        TensorFlow 1: name-based, like `model.ckpt-8000`; TensorFlow 2: object-based, like `ckpt-1`. Optimizer slots are
        not saved. A pipeline.config is written beside the checkpoint if there is none.

        Args:
            prefix: such as `tuned/model.ckpt-1`; its folder is created.

        Raises: OutputError: there is a checkpoint of this name, or it cannot be written; nothing is left behind.
        """
        prefix = Path(prefix)
        files = [f"{prefix.name}.data-00000-of-00001", f"{prefix.name}.index"]
        if not prefix.name or any(prefix.parent.glob(f"{prefix.name}.*")) or prefix.exists():
            raise OutputError(f"{prefix}: a checkpoint or a file of this name exists already; {ANOTHER_PREFIX}")
        entries = files if (prefix.parent / CONFIG).exists() else [*files, CONFIG]
        with staged(prefix.parent, entries, overwrite=False, advice=ANOTHER_PREFIX) as staging:
            try:
                write_checkpoint(self._weights, staging / prefix.name)
            except tf.errors.OpError as error:
                raise output_error(prefix, error, ANOTHER_PREFIX) from None
            if CONFIG in entries:
                (staging / CONFIG).write_text(format_pipeline_config(self._config))
        return prefix

    @contextmanager
    def _batch_statistics(self, training: bool) -> Iterator[None]:
        if training and not self.trainable_variables:
            raise UnsupportedError('training=True needs a detector that was loaded with weights="trainable"')
        if training and self._weights.quantized:
            raise UnsupportedError(
                "not supported yet: training=True for a quantization-aware model (graph_rewriter in the config)"
            )
        self._weights.training = training
        try:
            yield
        finally:
            self._weights.training = False

    def _side_tensors(self, side_inputs: Mapping[str, Any]) -> Tensors:
        expected = self._detector.side_inputs
        if set(side_inputs) != set(expected):
            takes = f"the side inputs {', '.join(expected)}" if expected else "no side inputs"
            passed = ", ".join(side_inputs) or "no side inputs"
            raise ValueError(f"this model takes {takes} (found: {passed})")
        return {name: tf.convert_to_tensor(side_inputs[name], spec.dtype) for name, spec in expected.items()}


def load_detector(
    source: str | Path,
    *,
    config: str | Path | None = None,
    weights: str = "trainable",
    step: int | None = None,
    label_map: str | Path | None = None,
    config_override: str = "",
    suppression: str = "kernel",
) -> LoadedDetector:
    """Returns the detector of a checkpoint as an object: to run it, to look at its stages, or to train it.

    Args:
        source: a checkpoint (its prefix, or one of its files), a training folder (its newest complete checkpoint), or a
            folder that `unfreeze export` has written.
        config: the pipeline.config; by default the one beside the checkpoint, in the folder above, or of the export.
        weights: `"trainable"`: every variable is a `tf.Variable` which gradients and assignments reach. `"variables"`:
            batch normalization is folded once, at this call, which is faster; changing a variable later changes only a
            part of the network. `"constants"`: there are no variables.
        step: the checkpoint of this step in a training folder, instead of the newest.
        label_map: label map with the keypoints of a CenterNet, if its own is not on this machine.
        config_override: text of a pipeline.config, merged over the file.
        suppression: the form of non-maximum suppression: `"kernel"`, TensorFlow's own operation, or `"operations"`,
            plain tensor operations, for converters that do not know it. The detections are the same.

    Raises: ConfigError, CheckpointError, WeightsError, UnsupportedError: `source` or an argument is not valid, or the
    checkpoint does not fit the config.
    """
    forms = Forms(suppression_form(suppression))
    opened, config_path = _opened(Path(source), config, step)
    pipeline = read_pipeline_config(config_path, override=config_override)
    if opened is None:
        opened = open_export(saved_model_folder(source), generation(pipeline))
    bound_config = with_keypoint_labels(pipeline, config_path.parent, label_map, lambda line: None)
    bound = Weights(opened, weights, moving_averages=pipeline.eval_config.use_moving_averages)
    exportable = trace(build_detector(bound_config, bound, forms))
    bound.require_fit(likely_causes(pipeline))
    bound.fill()
    detector = build_detector(bound_config, bound, replace(forms, whole_maps=True))
    return LoadedDetector(detector, exportable, bound, pipeline)


def _opened(source: Path, config: str | Path | None, step: int | None) -> tuple[Checkpoint | None, Path]:
    """Returns the checkpoint, or None for an export, and the path of its config."""
    if not is_graph_path(source):
        checkpoint = open_checkpoint(source, step)
        return checkpoint, find_pipeline_config(checkpoint.prefix, config)
    if not source.is_dir() and source.name != "saved_model.pb":
        raise CheckpointError(
            f"{source}: is a frozen graph; pass the checkpoint or a folder that unfreeze export wrote"
        )
    return None, find_config_of_export(saved_model_folder(source), config)
