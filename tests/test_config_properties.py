"""Properties of parsing: any text is parsed or raises ConfigError, and never another exception."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unfreeze.callbacks import ignore
from unfreeze.config import (
    format_pipeline_config,
    messages,
    parse_pipeline_config,
    read_label_map,
    read_pipeline_config,
)
from unfreeze.config.outline import outline
from unfreeze.errors import ConfigError

CONFIG = json.loads(gzip.decompress((Path(__file__).parent / "data" / "pipeline_configs.json.gz").read_bytes()))[
    "published/tf1/ssd_mobilenet_v2_coco_2018_03_29"
]
LABELS = "item { id: 1 name: 'cat' keypoints { id: 0 label: 'nose' } }\nitem { id: 2 name: \"dog\" frequency: RARE }\n"

# Text near to the format: names of the schema, values, marks and garbage in any order.
NAMES = ["model", "ssd", "faster_rcnn", "center_net", "feature_extractor", "type", "num_classes", "train_config"]
NAMES += ["batch_size", "post_processing", "score_converter", "SIGMOID", "item", "id", "name", "keypoints"]
VALUES = ["0", "-1", "3", "99999999999", "1e400", "-.5f", "0x1F", "07", "nan", "inf", "true", "[a.b/c]", "'a'", '"b"']
MARKS = [*"{}<>[]:,;#", "\n", " ", "'", '"', "\\", "'\\x4'", "/", "é", "\0", "\ud7ff"]
TOKENS = st.lists(st.sampled_from(NAMES + VALUES + MARKS), max_size=40)
TEXTS = st.one_of(st.text(max_size=200), TOKENS.map(" ".join), TOKENS.map("".join))


@st.composite
def edited(draw: st.DrawFn, text: str) -> str:
    """Returns the text with a part replaced by other text."""
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 60)))
    return text[:start] + draw(TEXTS) + text[end:]


@given(st.one_of(TEXTS, edited(CONFIG)), st.booleans())
@example("model { ssd { num_classes: 3 } }", False)
@settings(max_examples=400, deadline=None)
def test_any_text_is_a_config_or_a_config_error(text: str, allow_unknown_fields: bool) -> None:
    try:
        config = parse_pipeline_config(text, allow_unknown_fields=allow_unknown_fields, on_warning=ignore)
    except ConfigError:
        return
    again = parse_pipeline_config(format_pipeline_config(config))
    assert again.SerializeToString(deterministic=True) == config.SerializeToString(deterministic=True)  # nan != nan


@given(st.one_of(TEXTS, edited(CONFIG)))
@settings(max_examples=200, deadline=None)
def test_unknown_fields_are_inside_the_text_and_in_order(text: str) -> None:
    end = 0
    lines = text.count("\n") + 1
    for stray in outline(text, messages.TrainEvalPipelineConfig.DESCRIPTOR).strays:
        assert end <= stray.start < stray.end <= len(text)
        assert 1 <= stray.line <= lines
        end = stray.end


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts") / "file.pbtxt"


LABEL_MAPS = st.one_of(TEXTS, edited(LABELS)).map(lambda text: text.encode("utf-8", "surrogatepass"))


@given(content=st.one_of(st.binary(max_size=300), LABEL_MAPS))
@settings(max_examples=400, deadline=None)
def test_any_file_is_a_label_map_or_a_config_error(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    try:
        labels = read_label_map(file).labels
    except ConfigError:
        return
    assert labels
    assert all(class_id == label.id >= 0 and label.name for class_id, label in labels.items())


@given(content=st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_a_config_error(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError):
        read_pipeline_config(file)
