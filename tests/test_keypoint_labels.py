"""The label map of a CenterNet's keypoints: which file is used if the configured one is not on this machine."""

from pathlib import Path

import pytest

from unfreeze.config import PipelineConfig, parse_pipeline_config, with_keypoint_labels
from unfreeze.config.keypoint_labels import COCO
from unfreeze.errors import ConfigError

MAP = "item { id: 1 name: 'cat' keypoints { id: 0 label: 'nose' } }\nitem { id: 2 name: 'dog' }"


def config(path: str, keypoint_class: str = "cat") -> PipelineConfig:
    task = f"keypoint_estimation_task {{ keypoint_class_name: '{keypoint_class}' }}"
    return parse_pipeline_config(f"model {{ center_net {{ keypoint_label_map_path: '{path}' {task} }} }}")


def chosen(
    folder: Path, path: str, label_map: Path | None = None, keypoint_class: str = "cat"
) -> tuple[str, list[str]]:
    """Returns the path that is chosen, and the warnings."""
    warnings: list[str] = []
    changed = with_keypoint_labels(config(path, keypoint_class), folder, label_map, warnings.append)
    return changed.model.center_net.keypoint_label_map_path, warnings


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.pbtxt"
    path.write_text(MAP)
    return path


def test_existing_path_is_kept_without_a_warning(labels: Path, tmp_path: Path) -> None:
    assert chosen(tmp_path / "other", str(labels)) == (str(labels), [])


@pytest.mark.parametrize("path", ["labels.pbtxt", "/elsewhere/labels.pbtxt", r"C:\\maps\\labels.pbtxt"])
def test_file_of_that_name_beside_the_config_is_used(labels: Path, tmp_path: Path, path: str) -> None:
    used, [warning] = chosen(tmp_path, path)
    assert used == str(labels)
    assert warning.endswith(f"is not on this machine; using {labels}")


def test_label_map_with_the_keypoints_is_used(labels: Path, tmp_path: Path) -> None:
    used, [warning] = chosen(tmp_path / "other", "missing.pbtxt", labels)
    assert used == str(labels)
    assert warning.endswith(f"'missing.pbtxt' is not on this machine; using the keypoints of the label map {labels}")


def test_keypoints_of_coco_are_used_for_persons(labels: Path, tmp_path: Path) -> None:
    used, [warning] = chosen(tmp_path / "other", "", labels, keypoint_class="/m/01g317")
    assert used == str(COCO)
    assert "using the keypoints of a person in COCO" in warning


def test_class_without_keypoints_is_not_enough(labels: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"or pass a label map with the keypoints of 'dog' as --label-map\.$"):
        chosen(tmp_path / "other", "missing.pbtxt", labels, keypoint_class="dog")


def test_config_is_changed_in_a_copy_only(labels: Path, tmp_path: Path) -> None:
    original = config("missing.pbtxt")
    changed = with_keypoint_labels(original, tmp_path, labels)
    assert changed is not original
    assert original.model.center_net.keypoint_label_map_path == "missing.pbtxt"
    changed.model.center_net.keypoint_label_map_path = "missing.pbtxt"
    assert changed == original


def test_models_without_keypoints_are_unchanged(tmp_path: Path) -> None:
    for text in ("model { ssd { num_classes: 1 } }", "model { center_net { num_classes: 1 } }"):
        plain = parse_pipeline_config(text)
        assert with_keypoint_labels(plain, tmp_path) is plain
