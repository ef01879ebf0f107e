"""The names of the layers of a two-stage detector in TensorFlow 2 checkpoints, by their names in slim.

Source: object_detection/meta_architectures/{faster_rcnn,rfcn}_meta_arch.py,
predictors/{mask_rcnn,rfcn}_keras_box_predictor.py, predictors/heads/keras_{box,class,mask}_head.py,
meta_architectures/context_rcnn_lib_tf2.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from unfreeze.config import messages
from unfreeze.detectors.first_stage import EXTRACTOR_SCOPE as FIRST_EXTRACTOR
from unfreeze.detectors.first_stage import PREDICTOR_SCOPE as FIRST_PREDICTOR
from unfreeze.detectors.second_stage import EXTRACTOR_SCOPE as SECOND_EXTRACTOR
from unfreeze.detectors.second_stage import PREDICTOR_SCOPE as SECOND_PREDICTOR

Rename = tuple[str, str]

FIRST_CONV = "_first_stage_box_predictor_first_conv/layer_with_weights-"
ATTENTION = "_context_feature_extract_fn"
PROJECTIONS = {
    "AttentionBlock0_AttentionLayer0/fully_connected": "_query_proj",
    "AttentionBlock0_AttentionLayer0/fully_connected_1": "_key_proj",
    "AttentionBlock0_AttentionLayer0/fully_connected_2": "_val_proj",
    "fully_connected": "_feature_proj",
}
FIRST_HEADS = "_first_stage_box_predictor/_prediction_heads"


def keras_names(config: messages.FasterRcnn, num_maps: int) -> list[Rename]:
    """Returns the renames for the weights of a `FasterRcnn` message whose first stage has `num_maps` feature maps."""
    predictor = config.second_stage_box_predictor
    if predictor.WhichOneof("box_predictor_oneof") == "rfcn_box_predictor":
        second_stage = list(_rfcn())
    else:
        second_stage = list(_mask_rcnn(predictor.mask_rcnn_box_predictor))
    return [
        (rf"^{FIRST_EXTRACTOR}\b", "_feature_extractor_for_proposal_features"),
        (rf"^{SECOND_EXTRACTOR}\b", "_feature_extractor_for_box_classifier_features"),
        *_layer("Conv", FIRST_CONV, 0),
        *_first_stage(num_maps),
        *second_stage,
        *_attention(),
    ]


def _layer(name: str, layers: str, place: int) -> Iterator[Rename]:
    """Maps layer `name` to index `place` of `layers`, and its batch normalization to the index after it."""
    yield rf"^{name}/BatchNorm\b", f"{layers}{place + 1}"
    yield rf"^{name}\b", f"{layers}{place}"


def _first_stage(num_maps: int) -> Iterator[Rename]:
    for i in range(num_maps):
        # With one feature map, slim opens no scope for it.
        scope = f"{FIRST_PREDICTOR}/BoxPredictor_{i}" if num_maps > 1 else FIRST_PREDICTOR
        yield rf"^{scope}/BoxEncodingPredictor\b", f"{FIRST_HEADS}/box_encodings/{i}/_box_encoder_layers/0"
        classes = f"{FIRST_HEADS}/class_predictions_with_background/{i}"
        yield rf"^{scope}/ClassPredictor\b", f"{classes}/_class_predictor_layers/0"


def _attention() -> Iterator[Rename]:
    for name, projection in PROJECTIONS.items():
        yield rf"^{name}/BatchNorm\b", f"{ATTENTION}/{projection}/batch_norm"
        yield rf"^{name}\b", f"{ATTENTION}/{projection}/projection"


def _rfcn() -> Iterator[Rename]:
    yield from _layer(f"{SECOND_PREDICTOR}/reduce_depth", "_rfcn_box_predictor/_shared_conv_layers/", 0)
    yield from _layer(f"{SECOND_PREDICTOR}/refined_locations", "_rfcn_box_predictor/_box_encoder_layers/", 0)
    yield from _layer(f"{SECOND_PREDICTOR}/class_predictions", "_rfcn_box_predictor/_class_predictor_layers/", 0)


def _mask_rcnn(config: messages.MaskRCNNBoxPredictor) -> Iterator[Rename]:
    dense = 2 if config.use_dropout else 1  # its index: it follows a Flatten, and a Dropout if there is one
    boxes = "_mask_rcnn_box_predictor/_box_prediction_head/_box_encoder_layers/"
    yield from _layer(f"{SECOND_PREDICTOR}/BoxEncodingPredictor", boxes, dense)
    classes = "_mask_rcnn_box_predictor/_class_prediction_head/_class_predictor_layers/"
    yield from _layer(f"{SECOND_PREDICTOR}/ClassPredictor", classes, dense)
    masks = "_mask_rcnn_box_predictor/_third_stage_heads/mask_predictions/_mask_predictor_layers/"
    # Each layer is followed by its normalization and its activation; the last but one layer comes after an upsampling.
    places = [3 * i for i in range(max(1, config.mask_prediction_num_conv_layers))]
    if config.convolve_then_upsample_masks:
        places = [*places[:-1], places[-1] + 1, places[-1] + 4]
    for i, place in enumerate(places):
        yield from _layer(f"{SECOND_PREDICTOR}/{f'Conv_{i}' if i else 'Conv'}", masks, place)
