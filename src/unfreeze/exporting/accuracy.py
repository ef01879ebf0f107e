"""What a file of lower precision costs: the mAP of the float model, of the file, and the loss."""

from __future__ import annotations

import math
from pathlib import Path

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.config import LabelMap
from unfreeze.errors import ImageError, VerificationError
from unfreeze.evaluation.annotations import read_annotations
from unfreeze.evaluation.class_matching import match_classes
from unfreeze.evaluation.coco import METRICS, coco_metrics
from unfreeze.evaluation.evaluate import InferenceRun
from unfreeze.evaluation.metric_sets import MetricSet
from unfreeze.evaluation.tables import truth_of
from unfreeze.export_record import AccuracyRecord
from unfreeze.exporting.precision_options import PrecisionOptions
from unfreeze.runtimes import find_model, load_model
from unfreeze.runtimes.model import Model

BATCH_SIZE = 8


class Accuracy:
    """Measures files on annotated images, and compares them with the float model, which is measured once."""

    def __init__(self, options: PrecisionOptions, labels: LabelMap | None, on_progress: OnMessage) -> None:
        assert options.annotations is not None
        self._options = options
        self._on_progress = on_progress
        self._source = read_annotations(
            options.annotations, labels.display_names if labels else {}, images=options.images
        )
        self._categories = match_classes(labels, self._source, strict=False).categories
        self._float_map: float | None = None

    def measure(self, path: Path, float_model: Model) -> AccuracyRecord:
        """Returns the mAP of the float model and of a file.

        Raises:
            VerificationError: the loss is above `max_map_loss`. ImageError: the float model has no mAP to lose.
        """
        if self._float_map is None:
            self._float_map = self._mean_average_precision(float_model)
            if not self._float_map > 0:
                raise ImageError(
                    f"{self._options.annotations}: the mAP of the float model is {self._float_map:.3f}, so that a loss "
                    "cannot be measured. Check that the category ids are the class ids of the model, or pass "
                    "--label-map."
                )
        score = self._mean_average_precision(load_model(find_model(path)))
        record = AccuracyRecord(
            annotations=str(self._options.annotations),
            images=len(self._source.dataset["images"]),
            float_map=self._float_map,
            file_map=score,
            loss=self._float_map - score,
            max_loss=self._options.max_map_loss,
        )
        if record.max_loss is not None and record.loss > record.max_loss:
            raise VerificationError(
                f"not exported, since {path.name} loses {record.loss:.4f} mAP ({record.float_map:.4f} to "
                f"{record.file_map:.4f} on {record.annotations}), more than --max-map-loss {record.max_loss:g}"
            )
        return record

    def _mean_average_precision(self, model: Model) -> float:
        self._on_progress(f"measuring the mAP of {model.title}")
        run = InferenceRun(self._source, self._categories, MetricSet.COCO, BATCH_SIZE, strict=True, on_progress=ignore)
        detections = run.detections_of(model)
        truth = truth_of(self._source, set(self._categories.values()), masks=False, without=run.unreadable)
        score = coco_metrics(detections, truth.objects, truth.classes).summary()[METRICS[0]]
        return 0.0 if math.isnan(score) else score
