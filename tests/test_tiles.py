"""Large images are run in tiles, and the detections of the tiles are merged."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unfreeze.errors import ConfigError
from unfreeze.images import WHOLE_IMAGE, Detection, Source
from unfreeze.prediction.backends import Backend, local_file
from unfreeze.prediction.batches import Item, PredictOptions, ShardRunner
from unfreeze.prediction.store import open_store
from unfreeze.prediction.tiles import TileDetection, Tiling, detect, in_image, merged
from unfreeze.runtimes.model import Outputs


@pytest.mark.parametrize(
    ("size", "tiling", "starts_x", "starts_y"),
    [
        ((100, 40), Tiling(50, 0.2), [0, 40, 50], [0]),
        ((100, 100), Tiling(50, 0.0), [0, 50], [0, 50]),
        ((50, 50), Tiling(50, 0.2), [0], [0]),
        ((51, 30), Tiling(50, 0.99), [0, 1], [0]),
    ],
)
def test_tiles_cover_the_image_and_have_one_size(
    size: tuple[int, int], tiling: Tiling, starts_x: list[int], starts_y: list[int]
) -> None:
    tiles = tiling.tiles(*size)
    assert sorted({left for left, *_ in tiles}) == starts_x
    assert sorted({top for _, top, *_ in tiles}) == starts_y
    assert {(right - left, bottom - top) for left, top, right, bottom in tiles} == {
        (min(tiling.size, size[0]), min(tiling.size, size[1]))
    }
    covered = np.zeros(size[::-1], bool)
    for left, top, right, bottom in tiles:
        covered[top:bottom, left:right] = True
    assert covered.all()


def test_options_that_are_no_tiling_are_rejected() -> None:
    assert Tiling.of(None, None) is None
    assert Tiling.of(512, None) == Tiling(512, 0.2)
    with pytest.raises(ConfigError, match="--tile-overlap needs --tile-size"):
        Tiling.of(None, 0.3)
    with pytest.raises(ConfigError, match=r"--tile-size 100 --tile-overlap 1\.0: not a tiling"):
        Tiling.of(100, 1.0)


def bright_spots(sources: Sequence[Source], images: Sequence[Image.Image]) -> list[Outputs]:
    """Returns a detection around each group of bright pixels, if it is large enough in the image for a detector."""
    outputs = []
    for image in images:
        pixels = np.asarray(image)[..., 0]
        boxes = []
        for value in sorted(set(pixels[pixels > 100].tolist())):
            rows, columns = np.nonzero(pixels == value)
            height, width = rows.max() + 1 - rows.min(), columns.max() + 1 - columns.min()
            if max(height / image.height, width / image.width) >= 0.1:
                box = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
                boxes.append(np.array(box) / np.array([image.height, image.width] * 2))
        count = len(boxes)
        outputs.append(
            {
                "detection_boxes": np.array(boxes, np.float32).reshape(-1, 4),
                "detection_scores": np.linspace(0.9, 0.8, count).astype(np.float32),
                "detection_classes": np.ones(count, np.float32),
            }
        )
    return outputs


def test_small_objects_of_a_large_image_are_found_in_tiles() -> None:
    pixels = np.zeros((400, 600, 3), np.uint8)
    spots = {
        (20, 30, 50, 60): 120,
        (190, 180, 215, 205): 160,
        (60, 250, 360, 590): 200,
    }  # the last is larger than a tile
    for (top, left, bottom, right), value in spots.items():
        pixels[top:bottom, left:right] = value
    image = Image.fromarray(pixels)
    calls: list[tuple[int, tuple[int, int]]] = []

    def run(sources: Sequence[Source], images: Sequence[Image.Image]) -> list[Outputs]:
        calls.append((len(images), images[0].size))
        assert all(part.size == images[0].size for part in images)
        files = {local_file(source) for source in sources}  # a server gets a tile as pixels, not the file of the image
        assert files == ({Path("/large.png")} if images[0].size == image.size else {None})
        return bright_spots(sources, images)

    source = Source("large.png", "/large.png")
    backend = Backend(run, batch_size=4, threads=1)
    whole = detect(backend, source, image, {1: "spot"}, 0.5, None)
    assert [detection.box_px(600, 400) for detection in whole] == [pytest.approx((60, 250, 360, 590))]
    calls.clear()
    found = {
        tuple(round(edge) for edge in detection.box_px(600, 400))
        for detection in detect(backend, source, image, {1: "spot"}, 0.5, Tiling(200, 0.2))
    }
    assert set(spots) <= found
    assert sum(count for count, size in calls if size == (200, 200)) == len(Tiling(200, 0.2).tiles(600, 400))
    assert calls[-1] == (1, (600, 400))
    assert detect(backend, source, image, {1: "spot"}, 0.5, Tiling(600)) == whole


def test_images_that_are_no_larger_than_a_tile_share_a_batch(tmp_path: Path) -> None:
    sizes: list[int] = []

    def run(sources: Sequence[Source], images: Sequence[Image.Image]) -> list[Outputs]:
        sizes.append(len(images))
        return bright_spots(sources, images)

    options = PredictOptions(tiling=Tiling(50))
    with ThreadPoolExecutor(1) as pool:
        runner = ShardRunner(Backend(run, batch_size=2, threads=1), {}, options, open_store(tmp_path), pool, pool)
        for size, batches in (((50, 40), [2]), ((60, 40), [2, 1, 2, 1])):
            sizes.clear()
            items = [Item(Source(name, name), number, Image.new("RGB", size)) for number, name in enumerate("ab")]
            results = runner.run_batch(items)
            assert [result.error for result in results] == [None, None]
            assert sizes == batches


def detection(box: tuple[float, float, float, float], score: float, class_id: int = 1) -> Detection:
    return Detection(class_id, "spot", score, box)


def test_detection_of_a_tile_is_moved_into_the_image() -> None:
    mask = np.ones((2, 2))
    inner = Detection(1, "a", 0.9, (0.25, 0.5, 0.5, 0.75), mask, WHOLE_IMAGE, ((0.5, 0.5, 1.0),))
    moved = in_image(inner, (100, 0, 200, 100), 3, (400, 200))
    assert moved.detection.box == pytest.approx((0.125, 0.375, 0.25, 0.4375))
    assert moved.detection.mask_box == pytest.approx((0.0, 0.25, 0.5, 0.5))
    assert moved.detection.keypoints == (pytest.approx((0.25, 0.375, 1.0)),)
    assert not moved.is_cut
    for box, is_cut in [
        ((0.0, 0.5, 0.5, 0.75), False),  # the edge of the image
        ((0.1, 0.0, 0.5, 0.75), True),
        ((0.1, 0.5, 1.0, 0.75), True),
        ((0.1, 0.5, 0.5, 1.0), True),
    ]:
        assert in_image(detection(box, 0.9), (100, 0, 200, 100), 3, (400, 200)).is_cut is is_cut


def test_merging_keeps_whole_boxes_other_classes_and_neighbors_of_one_tile() -> None:
    whole = detection((0.0, 0.0, 0.4, 0.4), 0.6)
    items = [
        TileDetection(whole, 9, False),
        TileDetection(detection((0.0, 0.0, 0.4, 0.2), 0.95), 0, True),  # the left half of it
        TileDetection(detection((0.01, 0.0, 0.4, 0.4), 0.5), 1, False),  # the same object in another tile
        TileDetection(detection((0.0, 0.0, 0.4, 0.4), 0.55, 2), 1, False),  # another class
        TileDetection(detection((0.1, 0.1, 0.2, 0.2), 0.7), 1, False),  # a whole object inside the box
        TileDetection(detection((0.6, 0.6, 0.8, 0.8), 0.9), 2, False),
        TileDetection(detection((0.6, 0.61, 0.8, 0.8), 0.8), 2, False),  # the model kept both of one tile
    ]
    assert [item.score for item in merged(items)] == [0.9, 0.8, 0.7, 0.6, 0.55]
    assert merged([]) == ()
