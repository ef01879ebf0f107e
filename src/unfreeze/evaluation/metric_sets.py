"""The sets of metrics that `unfreeze evaluate` computes."""

from enum import Enum


class MetricSet(str, Enum):
    """A definition of the mean average precision, by the name that `--metrics` takes."""

    COCO = "coco"
    PASCAL_VOC = "pascal_voc"
    OPEN_IMAGES = "open_images"
    OPEN_IMAGES_CHALLENGE = "open_images_challenge"

    @property
    def description(self) -> str:
        """What a report calls it."""
        return {
            MetricSet.COCO: "COCO's metrics",
            MetricSet.PASCAL_VOC: "Pascal VOC's mAP (pascal_voc_detection_metrics)",
            MetricSet.OPEN_IMAGES: "Open Images' mAP (oid_V2_detection_metrics)",
            MetricSet.OPEN_IMAGES_CHALLENGE: "the Open Images Challenge's mAP (oid_challenge_detection_metrics)",
        }[self]


METRIC_SETS = tuple(metrics.value for metrics in MetricSet)
