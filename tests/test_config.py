"""pipeline.config and label maps: the schema compared with that of the OD API, every config, every error."""

import ast
import gzip
import importlib.util
import json
import os
import subprocess
import sys
import warnings
from functools import cache
from operator import attrgetter
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, text_format

from unfreeze.config import (
    Label,
    enum_name,
    format_pipeline_config,
    messages,
    parse_pipeline_config,
    read_label_map,
    read_pipeline_config,
)
from unfreeze.config.outline import AFTER_QUOTE
from unfreeze.errors import ConfigError

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "data"
PROTOS = ROOT / "src" / "unfreeze" / "config"
# The configs of the reference: those of the goldens, of published checkpoints, and of the digits detector.
CONFIGS = json.loads(gzip.decompress((DATA / "pipeline_configs.json.gz").read_bytes()))
# Every message, field and enum of the OD API's schema as of 2.8.0; a field is
# [number, label, type, default, oneof, deprecated].
OD_API = json.loads((DATA / "original_schema.json").read_text())

# What our schema has beyond that: see pipeline.proto.
REMOVED = {
    "CalibrationConfig": {"label_function_approximations", "label_sigmoid_calibrations"},
    "Ssd": {
        "weight_regression_loss_by_score",
        "use_expected_classification_loss_under_sampling",
        "minimum_negative_sampling",
        "min_num_negative_samples",
        "desired_negative_sampling_ratio",
    },
    "SsdFeatureExtractor": {"batch_norm_trainable"},
}
NEWER = {
    "CenterNet.DeepMACMaskEstimation": {
        "feature_consistency_threshold",
        "feature_consistency_dilation",
        "feature_consistency_loss_weight",
        "feature_consistency_warmup_steps",
        "feature_consistency_warmup_start",
        "feature_consistency_type",
        "feature_consistency_comparison",
    },
    "SsdFeatureExtractor": {"use_hardswish"},
}
MORE_MESSAGES = {
    "LabelFunctionApproximations",
    "LabelFunctionApproximations.LabelXyPairsMapEntry",
    "LabelSigmoidCalibrations",
    "LabelSigmoidCalibrations.LabelSigmoidParametersMapEntry",
}
MORE_ENUMS = {"FeatureConsistencyType", "FeatureConsistencyComparison"}


def parse(text: str, **options):
    return parse_pipeline_config(text, source="p.config", **options)


def ssd(inside: str) -> str:
    return f"model {{ ssd {{ {inside} }} }}"


# ---- the schema


def compiled_schema() -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString((PROTOS / "schema.binpb").read_bytes())


@cache
def schema_table() -> dict:
    """Our schema in the form of OD_API."""
    kinds = {number: name[5:].lower() for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()}
    labels = {number: name[6:].lower() for name, number in descriptor_pb2.FieldDescriptorProto.Label.items()}
    table: dict = {"messages": {}, "enums": {}}

    def add_message(message, scope: str) -> None:
        name = scope + message.name
        fields = {
            field.name: [
                field.number,
                labels[field.label],
                field.type_name.removeprefix(".unfreeze.config.") or kinds[field.type],
                field.default_value if field.HasField("default_value") else None,
                message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None,
                field.options.deprecated,
            ]
            for field in message.field
        }
        ranges = [[extension.start, extension.end] for extension in message.extension_range]
        table["messages"][name] = {"fields": fields, "extensions": ranges}
        for enum in message.enum_type:
            table["enums"][f"{name}.{enum.name}"] = {value.name: value.number for value in enum.value}
        for nested in message.nested_type:
            add_message(nested, name + ".")

    for file in compiled_schema().file:
        for message in file.message_type:
            add_message(message, "")
        for enum in file.enum_type:
            table["enums"][enum.name] = {value.name: value.number for value in enum.value}
    return table


def test_schema_has_every_message_and_enum_of_the_od_api():
    ours = schema_table()
    assert set(ours["messages"]) == set(OD_API["messages"]) | MORE_MESSAGES
    assert set(ours["enums"]) == set(OD_API["enums"]) | MORE_ENUMS
    assert {name: ours["enums"][name] for name in OD_API["enums"]} == OD_API["enums"]


@pytest.mark.parametrize("name", OD_API["messages"])
def test_schema_has_the_fields_of_the_od_api(name):
    ours, theirs = schema_table()["messages"][name], OD_API["messages"][name]
    more = set(ours["fields"]) - set(theirs["fields"])
    assert more == REMOVED.get(name, set()) | NEWER.get(name, set())
    assert {field: ours["fields"][field] for field in theirs["fields"]} == theirs["fields"]
    assert ours["extensions"] == theirs["extensions"]
    for field in REMOVED.get(name, set()):
        assert ours["fields"][field][-1], f"{field} is removed but not marked deprecated"


def test_compiled_schema_is_that_of_the_proto_files(tmp_path):
    if importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools is for developers only")
    subprocess.run([sys.executable, ROOT / "scripts" / "compile_protos", tmp_path], check=True)
    fresh = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "schema.binpb").read_bytes())
    assert fresh == compiled_schema(), "run scripts/compile_protos"


def stub_types(body):
    """{"Ssd": {"num_classes": "int", …}, "BoxCoder.Kind": {}} of a stub."""
    types = {}
    for node in body:
        if isinstance(node, ast.ClassDef):
            fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and not is_enum_value(item)]
            types[node.name] = {item.target.id: ast.unparse(item.annotation) for item in fields}
            types |= {f"{node.name}.{name}": inner for name, inner in stub_types(node.body).items()}
    return types


def is_enum_value(assignment):
    return assignment.target.id.isupper() or "ClassVar" in ast.unparse(assignment.annotation)


def python_type(field, maps):
    kinds = {"bool": "bool", "int32": "int", "uint32": "int", "float": "float", "string": "str"}
    kind = descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)[5:].lower()
    name = kinds.get(kind) or field.type_name.removeprefix(".unfreeze.config.")
    if name.split(".")[-1] in maps:
        key, value = maps[name.split(".")[-1]].field
        container = "MessageMap" if value.type_name else "ScalarMap"
        return f"_containers.{container}[{python_type(key, {})}, {python_type(value, {})}]"
    container = "RepeatedCompositeFieldContainer" if kind == "message" else "RepeatedScalarFieldContainer"
    return f"_containers.{container}[{name}]" if field.label == field.LABEL_REPEATED else name


def schema_types(messages, enums, outer=""):
    types = {f"{outer}{enum.name}": {} for enum in enums}
    for message in messages:
        maps = {entry.name: entry for entry in message.nested_type if entry.options.map_entry}
        types[f"{outer}{message.name}"] = {field.name: python_type(field, maps) for field in message.field}
        types |= schema_types(message.nested_type, message.enum_type, f"{outer}{message.name}.")
    return types


def test_stub_has_the_messages_and_types_of_the_schema():
    expected = {}
    for file in compiled_schema().file:
        expected |= schema_types(file.message_type, file.enum_type)
    stub = ast.parse((PROTOS / "messages.pyi").read_text())
    assert stub_types(stub.body) == expected, "run scripts/compile_protos"


def test_everything_in_the_stub_exists_at_run_time():
    stub = ast.parse((PROTOS / "messages.pyi").read_text())
    for name in stub_types(stub.body):
        assert attrgetter(name)(messages), name


def test_unknown_message_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'unfreeze.config.messages' has no attribute 'Sdd'"):
        _ = messages.Sdd


def test_type_checker_knows_the_fields_of_a_config(tmp_path):
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(
        "from unfreeze.config import PipelineConfig\n"
        "def classes(config: PipelineConfig) -> int:\n"
        "    return config.model.ssd.num_classes\n"
        "def wrong(config: PipelineConfig) -> str:\n"
        "    return config.model.ssd.num_clases\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir", tmp_path / "cache", program]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MYPYPATH": str(ROOT / "src")})
    assert '"Ssd" has no attribute "num_clases"; maybe "num_classes"?' in result.stdout
    assert "Found 1 error" in result.stdout, result.stdout


def test_import_is_light_and_leaves_the_default_pool_alone():
    code = """
import sys
from google.protobuf import descriptor_pb2, descriptor_pool
from unfreeze.config import parse_pipeline_config
config = parse_pipeline_config("model { ssd { num_classes: 3 } }")
heavy = {"tensorflow", "numpy", "grpc_tools", "object_detection"} & set(sys.modules)
assert not heavy, heavy
pool = descriptor_pool.Default()
for package in ("unfreeze.config", "object_detection.protos"):
    for message in ("TrainEvalPipelineConfig", "StringIntLabelMap"):
        try:
            pool.FindMessageTypeByName(f"{package}.{message}")
        except KeyError:
            continue
        raise AssertionError(f"{package}.{message} is in the default pool")
# Another library registers our very names, as an installed object_detection registers its own: no conflict.
file = descriptor_pb2.FileDescriptorProto(name="unfreeze/config/pipeline.proto", package="unfreeze.config")
file.message_type.add(name="TrainEvalPipelineConfig")
pool.AddSerializedFile(file.SerializeToString())
assert parse_pipeline_config("model { ssd { num_classes: 4 } }").model.ssd.num_classes == 4
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- configs


@pytest.mark.parametrize("name", CONFIGS)
def test_config_parses_and_round_trips(name):
    config = parse(CONFIGS[name])
    assert config.model.WhichOneof("model") in ("ssd", "faster_rcnn", "center_net")
    again = parse(format_pipeline_config(config))
    assert again == config
    assert format_pipeline_config(again) == format_pipeline_config(config)


def test_published_config_has_the_field_that_later_schemas_dropped():
    config = parse(CONFIGS["published/tf1/ssd_mobilenet_v2_coco_2018_03_29"])
    assert config.model.ssd.feature_extractor.batch_norm_trainable
    assert config.model.ssd.feature_extractor.type == "ssd_mobilenet_v2"
    assert enum_name(config.model.ssd.feature_extractor.conv_hyperparams, "activation") == "RELU_6"


def test_defaults_are_those_of_the_schema():
    config = parse(ssd(""))
    assert config.model.ssd.feature_extractor.depth_multiplier == 1.0
    assert config.model.ssd.post_processing.batch_non_max_suppression.iou_threshold == pytest.approx(0.6)
    assert not config.model.ssd.HasField("feature_extractor")
    assert not config.eval_config.use_moving_averages


def test_every_notation_of_the_text_format_is_accepted():
    config = parse(
        """# a comment
        model: < ssd { num_classes: 90, box_coder { faster_rcnn_box_coder { y_scale: 10.f; } }  # another
          anchor_generator { ssd_anchor_generator { scales: [.1, 2e-1] scales: 0.3 aspect_ratios: [] } }
          feature_extractor { type: 'ssd_' "mobilenet_v1" } post_processing { score_converter: 1 } } >;
        eval_config: { use_moving_averages: True super_categories { key: "a" value: "b" } }
        eval_input_reader: [ { num_epochs: 0x10 }, { label_map_path: "D:\\\\maps\\n" } ]
        """
    )
    assert config.model.ssd.num_classes == 90
    assert list(config.model.ssd.anchor_generator.ssd_anchor_generator.scales) == pytest.approx([0.1, 0.2, 0.3])
    assert config.model.ssd.feature_extractor.type == "ssd_mobilenet_v1"
    assert enum_name(config.model.ssd.post_processing, "score_converter") == "SIGMOID"
    assert config.eval_config.super_categories["a"] == "b"
    assert [reader.num_epochs for reader in config.eval_input_reader] == [16, 0]
    assert config.eval_input_reader[1].label_map_path == "D:\\maps\n"


def test_last_value_of_a_repeated_scalar_counts():
    assert parse(ssd("num_classes: 1 num_classes: 2")).model.ssd.num_classes == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_windows_text_files_are_read(tmp_path, encoding):
    path = tmp_path / "p.config"
    path.write_bytes('model {\r\n ssd { num_classes: 3 }\r\n}\r\neval_config { export_path: "ä" }'.encode(encoding))
    config = read_pipeline_config(path)
    assert config.eval_config.export_path == "ä"
    assert 'export_path: "ä"' in format_pipeline_config(config)


def test_override_is_merged_on_top():
    text = ssd("num_classes: 90 feature_extractor { depth_multiplier: 0.5 }") + "eval_input_reader { num_epochs: 1 }"
    override = "model { ssd { num_classes: 3 } } eval_input_reader { num_epochs: 2 }"
    config = parse(text, override=override)
    assert config.model.ssd.num_classes == 3
    assert config.model.ssd.feature_extractor.depth_multiplier == 0.5
    assert [reader.num_epochs for reader in config.eval_input_reader] == [1, 2]
    plain = messages.TrainEvalPipelineConfig()
    text_format.Merge(text, plain)
    text_format.Merge(override, plain)
    assert config == plain


def test_errors_of_an_override_name_the_option():
    with pytest.raises(ConfigError) as error:
        parse(ssd(""), override="model { ssd { classes: 3 } }")
    assert str(error.value) == (
        "--config_override:1: Ssd has no field 'classes', did you mean 'num_classes'?"
        " (--allow-unknown-fields ignores unknown fields)"
    )


# ---- what is wrong with a config

ALLOW = " (--allow-unknown-fields ignores unknown fields)"
LFS = "is a Git LFS pointer, not a label map; run git lfs pull to get the file"
GRAPH_ADVICE = "pass the binary .pb file or the checkpoint"

UNKNOWN = {
    "model {\n ssd {\n  num_clases: 3\n  foo: 1\n  box_coder { faster_rcnn_box_coder { yscale: 1 } }\n }\n}": (
        "p.config:3: Ssd has no field 'num_clases', did you mean 'num_classes'?; "
        "p.config:4: Ssd has no field 'foo'; "
        "p.config:5: FasterRcnnBoxCoder has no field 'yscale', did you mean 'y_scale'?" + ALLOW
    ),
    ssd("post_processing { score_converter: sigmoid }"): (
        "p.config:1: 'score_converter' of PostProcessing has no value 'sigmoid', did you mean 'SIGMOID'?" + ALLOW
    ),
    ssd("\npost_processing {\n score_converter:\n 9 }"): (
        "p.config:4: 'score_converter' of PostProcessing has no value '9', it is one of IDENTITY, SIGMOID, SOFTMAX"
        + ALLOW
    ),
    "model { num_classes: 3 }": (
        "p.config:1: DetectionModel has no field 'num_classes', it belongs inside 'faster_rcnn' or 'ssd' or"
        " 'center_net'" + ALLOW
    ),
    "model {\n ssd {\n  feature_extractor { }\n  depth_multiplier: 1\n  eval_config { }\n }\n}": (
        "p.config:4: Ssd has no field 'depth_multiplier', but 'feature_extractor' has; "
        "p.config:5: Ssd has no field 'eval_config', but TrainEvalPipelineConfig has" + ALLOW
    ),
    ssd("") + "\n[object_detection.protos.lstm_model] { a: 1 }": (
        "p.config:2: TrainEvalPipelineConfig has no field '[object_detection.protos.lstm_model]'" + ALLOW
    ),
    # A zoo config (mask_rcnn_inception_resnet_v2_1024x1024_coco17_gpu-8) has a letter after a closing quote.
    ssd("") + '\neval_input_reader { tf_record_input_reader {\n input_path: "PATH_TO_BE_CONFIGURED"s\n } }': (
        f"p.config:3: TFRecordInputReader has no field 's', {AFTER_QUOTE}" + ALLOW
    ),
}

WRONG = {
    "train_config { batch_size: 3 }": (
        "p.config: has no model; expected 'model { … }' with one of faster_rcnn, ssd, experimental_model, center_net"
        " in it"
    ),
    ssd("") + "\ntrain_input_reader {\n tf_record_input_reader {\n  input_path: 'a'\n }\n\neval_config {\n}\n": (
        "p.config:7: InputReader has no field 'eval_config', but TrainEvalPipelineConfig has:"
        " is a '}' missing between 'train_input_reader' (line 2) and here?"
    ),
    "model {\n ssd {\n  num_classes: 3\n }\n }\n loss {\n }\n}\n}": (
        "p.config:6: TrainEvalPipelineConfig has no field 'loss', but 'ssd' has: is there an extra '}' above?"
    ),
    "model {\n ssd {\n  num_classes: 3\n }\n": "p.config:1: 'model' is opened here and never closed",
    "model { } }": "p.config:1: '}' closes nothing",
    "model <\n ssd { num_classes: 3 >\n}": "p.config:2: expected '}' to close 'ssd' (line 2), found '>'",
    ssd("num_classes 3"): "p.config:1: expected ':' after 'num_classes', found 3",
    ssd("num_classes = 3"): "p.config:1: expected ':' after 'num_classes', found =",
    "model: 3": "p.config:1: expected '{' after 'model', found 3",
    '{"model": 3}': "p.config:1: expected the name of a field, found {",
    ssd('num_classes: "3"'): """p.config:1: 'num_classes' of Ssd must be a whole number (int32), not "3\"""",
    ssd("num_classes: 3000000000"): "p.config:1: 'num_classes' of Ssd must be a whole number (int32), not 3000000000",
    "train_config {\n batch_size: -4\n}": (
        "p.config:2: 'batch_size' of TrainConfig must be a whole number that is not negative (uint32), not -4"
    ),
    "model {\n ssd {\n  num_classes:\n\n": (
        "p.config:3: 'num_classes' must be a whole number (int32), found the end of the file"
    ),
    "train_config { batch_size: 4294967296 }": (  # 2^32
        "p.config:1: 'batch_size' of TrainConfig must be a whole number that is not negative (uint32), not 4294967296"
    ),
    ssd("num_classes: -2147483649"): "p.config:1: 'num_classes' of Ssd must be a whole number (int32), not -2147483649",
    ssd("freeze_batchnorm: yes"): "p.config:1: 'freeze_batchnorm' of Ssd must be true or false, not yes",
    ssd("negative_class_weight: one"): "p.config:1: 'negative_class_weight' of Ssd must be a number, not one",
    ssd("feature_extractor { type: ssd_mobilenet_v1 }"): (
        "p.config:1: 'type' of SsdFeatureExtractor must be text in quotes, not ssd_mobilenet_v1"
    ),
    ssd("feature_extractor { type: “ssd” }"): "p.config:1: 'type' must be text in quotes, found “ssd”",
    'eval_config {\n export_path: "a\n}': (
        "p.config:2: 'export_path' must be text in quotes, found a string without its closing quote"
    ),
    'eval_config {\n export_path: "C:\\Users"\n}': (
        "p.config:2: 'export_path' of EvalConfig has a '\\' that starts no escape; write '/' or '\\\\'"
    ),
    ssd('post_processing { score_converter: "SIGMOID" }'): (
        "p.config:1: 'score_converter' of PostProcessing must be one of IDENTITY, SIGMOID, SOFTMAX, not \"SIGMOID\""
    ),
    ssd("anchor_generator { ssd_anchor_generator { scales: [1 2] } }"): (
        "p.config:1: expected ',' or ']' in the list, found 2"
    ),
}


@pytest.mark.parametrize(("text", "words"), [*UNKNOWN.items(), *WRONG.items()])
def test_errors_name_line_and_fault(text, words):
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert str(error.value) == words


@pytest.mark.parametrize(("text", "words"), WRONG.items())
def test_other_errors_remain_when_unknown_fields_are_allowed(text, words):
    with pytest.raises(ConfigError) as error:
        parse(text, allow_unknown_fields=True, on_warning=[].append)
    assert str(error.value) == words


def test_unknown_fields_can_be_ignored():
    text = next(iter(UNKNOWN)).replace("foo: 1", "foo { bar < x: [1, {y: '}'}] > };\n num_classes: 7,")
    heard: list[str] = []
    config = parse(text, allow_unknown_fields=True, on_warning=heard.append)
    assert heard == [
        "p.config:3: Ssd has no field 'num_clases'; ignored",
        "p.config:4: Ssd has no field 'foo'; ignored",
        "p.config:6: FasterRcnnBoxCoder has no field 'yscale'; ignored",
    ]
    assert config == parse(ssd("num_classes: 7 box_coder { faster_rcnn_box_coder { } }"))


@pytest.mark.parametrize("text", list(UNKNOWN)[1:3] + list(UNKNOWN)[5:])
def test_every_kind_of_unknown_field_can_be_ignored(text):
    heard: list[str] = []
    parse(text, allow_unknown_fields=True, on_warning=heard.append)
    assert len(heard) == 1
    assert heard[0].endswith("; ignored")


def test_ignored_fields_are_python_warnings_by_default():
    with pytest.warns(UserWarning, match="^p.config:1: Ssd has no field 'foo'; ignored$"):
        parse(ssd("foo: 1"), allow_unknown_fields=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parse(ssd("num_classes: 1"), allow_unknown_fields=True)


def test_long_file_is_read_to_its_end(tmp_path):
    path = tmp_path / "p.config"
    path.write_text("#" * 10_000 + "\n" + ssd("num_classes: 7"))
    assert read_pipeline_config(path).model.ssd.num_classes == 7


def test_long_values_are_cut_in_errors():
    with pytest.raises(ConfigError, match=rf"found {'x' * 40}$"):
        parse("model " + "x" * 41)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "{path}: no such file; expected a pipeline.config"),
        ("folder", "{path}: is a folder; expected a pipeline.config"),
        (b"", "{path}: is empty; expected a pipeline.config"),
        (b" \n\t\n", "{path}: is empty; expected a pipeline.config"),
        (b"model {\0}", "{path}: is not text (byte 0x00 at 7); expected a pipeline.config"),
        (b"model { # caf\xe9 }", "{path}: is not text (byte 0xe9 at 13); expected a pipeline.config"),
    ],
)
def test_files_that_are_not_a_config_are_reported(tmp_path, content, words):
    path = tmp_path / "p.config"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_pipeline_config(path)
    assert str(error.value) == words.format(path=path)


# ---- label maps


def test_an_item_of_the_same_name_is_a_warning_and_the_first_counts(tmp_path: Path) -> None:
    path = write_map(tmp_path, "item { id: 1 name: 'a' }\nitem { id: 1 name: 'a' display_name: 'the a' }")
    heard: list[str] = []
    assert read_label_map(path, on_warning=heard.append).text(1) == "a"
    assert heard == [f"{path}:2: 'a' has id 1 a second time; the first item counts"]


def write_map(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "map.pbtxt"
    path.write_text(text, encoding="utf-8")
    return path


def test_label_map(tmp_path):
    label_map = read_label_map(
        write_map(
            tmp_path,
            """item{ id:1, name:'/m/01g317'  # a person
              display_name: "person" keypoints { id: 0 label: "nose" } keypoints { id: 1 label: "left_eye" } }
            item { name: 'cät' id: 7 ancestor_ids: [1, 2] descendant_ids: 3 frequency: RARE instance_count: 12 };
            item { id: 9 display_name: "dog" }
            item { id: 9 display_name: "dog" }
            item { id: 0 name: 'background' }""",
        )
    )
    assert label_map.names == {1: "/m/01g317", 7: "cät", 9: "dog", 0: "background"}
    assert label_map.display_names == {1: "person", 7: "cät", 9: "dog", 0: "background"}
    assert label_map.keypoints == {1: {0: "nose", 1: "left_eye"}}
    assert label_map.labels[7] == Label(
        7, "cät", ancestor_ids=(1, 2), descendant_ids=(3,), frequency="RARE", instance_count=12
    )
    assert [label_map.text(class_id) for class_id in (1, 7, 8)] == ["person", "cät", "category_8"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# nothing", "{path}: has no item; expected a label map"),
        ("", "{path}: is empty; expected a label map"),
        ("item {\n id: 3\n}", "{path}:1: item with id 3 has no name; add name: '…'"),
        ("item { name: 'cat' }", "{path}:1: item 'cat' has no id; ids start from 1"),
        ("item { name: 'cat' id: -2 }", "{path}:1: item 'cat' has id -2; ids start from 1"),
        (
            "\nitem { name: 'cat' id: 0 }",
            "{path}:2: item 'cat' has id 0, which is reserved for 'background'; ids start from 1",
        ),
        (
            "item { id: 3 name: 'cat' }\nitem { id: 4 name: 'cow' }\nitem { id: 3 name: 'dog' }",
            "{path}:3: 'cat' and 'dog' both have id 3; ids must be unique",
        ),
        (
            "item: [{ id: 3 name: 'cat' }, { id: 3 name: 'dog' }]",
            "{path}: 'cat' and 'dog' both have id 3; ids must be unique",
        ),
        (
            "item { id: 1 name: 'cat' keypoints { id: 2 label: 'ear' } keypoints { id: 2 label: 'tail' } }",
            "{path}:1: item 'cat' has keypoint id 2 twice; ids must be unique",
        ),
        (
            "item { id: 1 nam: 'cat' }",
            "{path}:1: StringIntLabelMapItem has no field 'nam', did you mean 'name'?" + ALLOW,
        ),
        (
            "model { ssd { num_classes: 3 } }",
            "{path}: is a pipeline.config, not a label map",
        ),
        (
            "item {\n id: 1\n name: 'driver's seat'\n}",
            "{path}:3: StringIntLabelMapItem has no field 's', " + AFTER_QUOTE + ALLOW,
        ),
        (
            "item { id: 1 name: 'cat' kind: 1 }\nitem { id: 2 name: 'dog' kind: 2 }",
            "{path}:1: StringIntLabelMapItem has no field 'kind' (2 times), did you mean 'id'?" + ALLOW,
        ),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "{path}: " + LFS),
        ("<!DOCTYPE html>\n<html></html>", "{path}: is a web page or XML, not a label map; download the file itself"),
        ("node { name: 'x' op: 'NoOp' }", "{path}: is a graph in text form, not a label map; " + GRAPH_ADVICE),
        ('{"cat": 1}', "{path}: is JSON, not a label map"),
        (
            "item { id: 1 name: 'D:\\640' }",
            "{path}:1: 'name' of StringIntLabelMapItem has a '\\' that starts no escape; write '/' or '\\\\'",
        ),
        (
            "item { id: 1 name: '\\ud800' }",
            "{path}:1: 'name' of StringIntLabelMapItem has a '\\' that starts no escape; write '/' or '\\\\'",
        ),
    ],
)
def test_faults_of_a_label_map_are_reported(tmp_path, text, words):
    path = write_map(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        read_label_map(path)
    assert str(error.value) == words.format(path=path)
