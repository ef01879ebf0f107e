"""EXTRACTORS: every supported `feature_extractor.type`. KNOWN: every type of the Object Detection API.

Source: object_detection/builders/model_builder.py.
"""

from __future__ import annotations

from unfreeze.detectors.center_net_extractors import CENTER_NET_EXTRACTORS, CenterNetExtractor
from unfreeze.detectors.faster_rcnn_extractors import FASTER_RCNN_EXTRACTORS, FasterRcnnExtractor
from unfreeze.detectors.faster_rcnn_keras_extractors import KERAS_EXTRACTORS
from unfreeze.detectors.ssd_extractors import SSD_EXTRACTORS, SsdExtractor

EXTRACTORS: dict[str, SsdExtractor | FasterRcnnExtractor | CenterNetExtractor] = {
    **SSD_EXTRACTORS,
    **FASTER_RCNN_EXTRACTORS,
    **KERAS_EXTRACTORS,
    **CENTER_NET_EXTRACTORS,
}

_RESNETS = ("50", "101", "152")

# (field of `model`, generation): the types, in the order of model_builder.py.
KNOWN: dict[tuple[str, str], tuple[str, ...]] = {
    ("ssd", "tf1"): (
        "ssd_inception_v2",
        "ssd_inception_v3",
        "ssd_mobilenet_v1",
        "ssd_mobilenet_v1_fpn",
        "ssd_mobilenet_v1_ppn",
        "ssd_mobilenet_v2",
        "ssd_mobilenet_v2_fpn",
        "ssd_mobilenet_v2_mnasfpn",
        "ssd_mobilenet_v3_large",
        "ssd_mobilenet_v3_small",
        "ssd_mobilenet_edgetpu",
        *(f"ssd_resnet{depth}_v1_fpn" for depth in _RESNETS),
        *(f"ssd_resnet{depth}_v1_ppn" for depth in _RESNETS),
        "embedded_ssd_mobilenet_v1",
        "ssd_pnasnet",
        *(f"ssd_mobiledet_{device}" for device in ("cpu", "dsp", "edgetpu", "gpu")),
        "ssd_spaghettinet",
    ),
    ("faster_rcnn", "tf1"): (
        "faster_rcnn_nas",
        "faster_rcnn_pnas",
        "faster_rcnn_inception_resnet_v2",
        "faster_rcnn_inception_v2",
        *(f"faster_rcnn_resnet{depth}" for depth in _RESNETS),
    ),
    ("ssd", "tf2"): (
        "ssd_mobilenet_v1_keras",
        "ssd_mobilenet_v1_fpn_keras",
        "ssd_mobilenet_v2_keras",
        "ssd_mobilenet_v2_fpn_keras",
        *(f"ssd_resnet{depth}_v1_fpn_keras" for depth in _RESNETS),
        *(f"ssd_efficientnet-b{size}_bifpn_keras" for size in range(8)),
    ),
    ("faster_rcnn", "tf2"): (
        *(f"faster_rcnn_resnet{depth}_keras" for depth in _RESNETS),
        "faster_rcnn_inception_resnet_v2_keras",
        *(f"faster_rcnn_resnet{depth}_fpn_keras" for depth in _RESNETS),
    ),
    ("center_net", "tf2"): (
        "resnet_v2_50",
        "resnet_v2_101",
        *(f"resnet_v1_{depth}_fpn" for depth in (18, 34, 50, 101)),
        *(f"hourglass_{layers}" for layers in (10, 20, 32, 52, 104)),
        "mobilenet_v2",
        "mobilenet_v2_fpn",
        "mobilenet_v2_fpn_sep_conv",
    ),
}
