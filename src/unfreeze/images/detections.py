"""One detection, in the coordinates of its image."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]
Keypoint = tuple[float, float, float]  # y, x, score

WHOLE_IMAGE: Box = (0.0, 0.0, 1.0, 1.0)
MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class Detection:
    """One detection of an image. `box` is (ymin, xmin, ymax, xmax), normalized, as the model returned it."""

    class_id: int
    name: str
    score: float
    box: Box
    mask: np.ndarray | None = None  # [h, w] probabilities, stretched over `mask_box`
    mask_box: Box = WHOLE_IMAGE
    keypoints: tuple[Keypoint, ...] = ()  # y and x are normalized

    def box_px(self, width: int, height: int) -> Box:
        """Returns (ymin, xmin, ymax, xmax) in pixels of an image of that size, clipped to it."""
        ymin, xmin, ymax, xmax = self.box
        top, bottom = sorted(min(max(y * height, 0.0), float(height)) for y in (ymin, ymax))
        left, right = sorted(min(max(x * width, 0.0), float(width)) for x in (xmin, xmax))
        return top, left, bottom, right

    def mask_px(self, width: int, height: int) -> np.ndarray:
        """Returns `[height, width]` bool: which pixels of an image of that size belong to the object."""
        pixels = np.zeros((height, width), bool)
        if self.mask is None:
            return pixels
        ymin, xmin, ymax, xmax = self.mask_box
        top, left, bottom, right = round(ymin * height), round(xmin * width), round(ymax * height), round(xmax * width)
        if bottom <= top or right <= left:
            return pixels
        # A box may reach over the image's edges, so the mask is stretched first and clipped afterwards.
        stretched = Image.fromarray(self.mask.astype(np.float32)).resize(
            (right - left, bottom - top), Image.Resampling.BILINEAR
        )
        inside = np.asarray(stretched) > MASK_THRESHOLD
        inside = inside[max(0, -top) : max(0, height - top), max(0, -left) : max(0, width - left)]
        top, left = max(0, top), max(0, left)
        pixels[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        return pixels

    def to_dict(self, width: int, height: int) -> dict[str, Any]:
        """Returns the detection as JSON, for an image of that size; a mask as COCO's uncompressed run lengths."""
        record: dict[str, Any] = {
            "class_id": self.class_id,
            "name": self.name,
            "score": self.score,
            "box": list(self.box),
            "box_px": [round(edge, 2) for edge in self.box_px(width, height)],
        }
        if self.keypoints:
            record["keypoints"] = [
                {"y": y, "x": x, "y_px": round(y * height, 2), "x_px": round(x * width, 2), "score": score}
                for y, x, score in self.keypoints
            ]
        if self.mask is not None:
            record["mask"] = {"size": [height, width], "counts": run_lengths(self.mask_px(width, height))}
        return record


def run_lengths(mask: np.ndarray) -> list[int]:
    """Returns the lengths of the runs of a mask `[H, W]`, column by column, alternating outside and inside.

    The first run is outside, and may be 0.
    """
    column_by_column = np.concatenate([[False], mask.flatten(order="F")])
    starts = np.flatnonzero(column_by_column[1:] != column_by_column[:-1])
    return [int(length) for length in np.diff(np.concatenate([[0], starts, [mask.size]]))]
