"""One thing found in a picture, in the picture's terms."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]

WHOLE_PICTURE: Box = (0.0, 0.0, 1.0, 1.0)
MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class Detection:
    """One detection. `box` is (ymin, xmin, ymax, xmax), normalized, as the model gave it."""

    class_id: int
    name: str
    score: float
    box: Box
    mask: np.ndarray | None = None  # [h, w] probabilities, stretched over `mask_box`
    mask_box: Box = WHOLE_PICTURE
    keypoints: tuple[tuple[float, float, float], ...] = ()  # (y, x, score), normalized

    def box_px(self, width: int, height: int) -> Box:
        """(ymin, xmin, ymax, xmax) in pixels of a picture of that size, cut at its edges."""
        ymin, xmin, ymax, xmax = self.box
        top, bottom = sorted(min(max(y * height, 0.0), float(height)) for y in (ymin, ymax))
        left, right = sorted(min(max(x * width, 0.0), float(width)) for x in (xmin, xmax))
        return top, left, bottom, right

    def mask_px(self, width: int, height: int) -> np.ndarray:
        """-> [height, width] bool: which pixels of a picture of that size are the thing's."""
        found = np.zeros((height, width), bool)
        if self.mask is None:
            return found
        ymin, xmin, ymax, xmax = self.mask_box
        top, left, bottom, right = round(ymin * height), round(xmin * width), round(ymax * height), round(xmax * width)
        if bottom <= top or right <= left:
            return found
        # A box may reach over the picture's edges, so the mask is stretched first and cut after.
        stretched = Image.fromarray(self.mask.astype(np.float32)).resize(
            (right - left, bottom - top), Image.Resampling.BILINEAR
        )
        inside = np.asarray(stretched) > MASK_THRESHOLD
        inside = inside[max(0, -top) : max(0, height - top), max(0, -left) : max(0, width - left)]
        top, left = max(0, top), max(0, left)
        found[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        return found

    def to_dict(self, width: int, height: int) -> dict[str, Any]:
        """What JSON says of it, for a picture of that size; a mask as COCO's uncompressed run lengths."""
        told: dict[str, Any] = {
            "class_id": self.class_id,
            "name": self.name,
            "score": self.score,
            "box": list(self.box),
            "box_px": [round(edge, 2) for edge in self.box_px(width, height)],
        }
        if self.keypoints:
            told["keypoints"] = [
                {"y": y, "x": x, "y_px": round(y * height, 2), "x_px": round(x * width, 2), "score": score}
                for y, x, score in self.keypoints
            ]
        if self.mask is not None:
            told["mask"] = {"size": [height, width], "counts": run_lengths(self.mask_px(width, height))}
        return told


def run_lengths(mask: np.ndarray) -> list[int]:
    """[H, W] bool -> how many pixels in turn are outside and inside, column by column, outside first."""
    column_by_column = np.concatenate([[False], mask.flatten(order="F")])
    starts = np.flatnonzero(column_by_column[1:] != column_by_column[:-1])
    return np.diff(np.concatenate([[0], starts, [mask.size]])).tolist()
