"""SSD_EXTRACTORS: a row for each `feature_extractor.type` of SSD, the config's word first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import tensorflow as tf

from unfreeze.backbones import mobiledet
from unfreeze.backbones import mobilenet_v3 as v3
from unfreeze.config import messages
from unfreeze.detectors import ssd_keras as keras
from unfreeze.detectors import ssd_multi_resolution as halved
from unfreeze.detectors import ssd_pyramids as pyramids
from unfreeze.detectors.normalizations import mean_subtracted, standardized, unit_range
from unfreeze.ops.branch import Branch


@dataclass(frozen=True)
class SsdExtractor:
    """A row of SSD_EXTRACTORS."""

    features: Callable[
        [tf.Tensor, Branch, messages.SsdFeatureExtractor], list[tf.Tensor]
    ]  # preprocessed images, weights, message -> maps
    normalize: Callable[[tf.Tensor], tf.Tensor]  # pixels 0..255 -> the input of the network
    options: tuple[str, ...] = ()  # fields of the message that this extractor supports, and not every extractor
    tf2: bool = False  # whether it is a Keras model of TensorFlow 2

    @property
    def scope(self) -> str:
        """The scope of its weights in the checkpoint."""
        return "_feature_extractor" if self.tf2 else "FeatureExtractor"


SSD_EXTRACTORS: dict[str, SsdExtractor] = {
    "ssd_mobilenet_v1": SsdExtractor(halved.ssd_mobilenet_v1, unit_range, ("num_layers",)),
    "ssd_mobilenet_v2": SsdExtractor(halved.ssd_mobilenet_v2, unit_range, ("num_layers",)),
    "ssd_inception_v2": SsdExtractor(halved.ssd_inception_v2, unit_range, ("num_layers",)),
    "ssd_inception_v3": SsdExtractor(halved.ssd_inception_v3, unit_range, ("num_layers",)),
    "ssd_mobilenet_v1_fpn": SsdExtractor(pyramids.ssd_mobilenet_v1_fpn, unit_range, ("fpn",)),
    "ssd_mobilenet_v1_ppn": SsdExtractor(pyramids.ssd_mobilenet_v1_ppn, unit_range, ("num_layers",)),
    "ssd_mobilenet_v2_fpn": SsdExtractor(pyramids.ssd_mobilenet_v2_fpn, unit_range, ("fpn",)),
    "ssd_mobilenet_v2_mnasfpn": SsdExtractor(pyramids.ssd_mobilenet_v2_mnasfpn, unit_range, ("fpn",)),
    "ssd_resnet50_v1_fpn": SsdExtractor(
        partial(pyramids.ssd_resnet_v1_fpn, architecture="resnet_v1_50"), mean_subtracted, ("fpn",)
    ),
    "ssd_resnet50_v1_ppn": SsdExtractor(
        partial(pyramids.ssd_resnet_v1_ppn, architecture="resnet_v1_50"), mean_subtracted
    ),
    "ssd_resnet101_v1_fpn": SsdExtractor(
        partial(pyramids.ssd_resnet_v1_fpn, architecture="resnet_v1_101"), mean_subtracted, ("fpn",)
    ),
    "ssd_resnet101_v1_ppn": SsdExtractor(
        partial(pyramids.ssd_resnet_v1_ppn, architecture="resnet_v1_101"), mean_subtracted
    ),
    "ssd_resnet152_v1_fpn": SsdExtractor(
        partial(pyramids.ssd_resnet_v1_fpn, architecture="resnet_v1_152"), mean_subtracted, ("fpn",)
    ),
    "ssd_resnet152_v1_ppn": SsdExtractor(
        partial(pyramids.ssd_resnet_v1_ppn, architecture="resnet_v1_152"), mean_subtracted
    ),
    "embedded_ssd_mobilenet_v1": SsdExtractor(halved.embedded_ssd_mobilenet_v1, unit_range),
    "ssd_mobilenet_v3_large": SsdExtractor(
        partial(
            halved.ssd_mobilenet_v3,
            scope="MobilenetV3",
            architecture=v3.LARGE_DETECTION,
            from_layer=("layer_14/expansion_output", "layer_17"),
        ),
        unit_range,
    ),
    "ssd_mobilenet_v3_small": SsdExtractor(
        partial(
            halved.ssd_mobilenet_v3,
            scope="MobilenetV3",
            architecture=v3.SMALL_DETECTION,
            from_layer=("layer_10/expansion_output", "layer_13"),
        ),
        unit_range,
    ),
    "ssd_mobilenet_edgetpu": SsdExtractor(
        partial(
            halved.ssd_mobilenet_v3,
            scope="MobilenetEdgeTPU",
            architecture=v3.EDGETPU,
            from_layer=("layer_18/expansion_output", "layer_23"),
        ),
        unit_range,
    ),
    "ssd_mobiledet_cpu": SsdExtractor(
        partial(halved.ssd_mobiledet, scope="MobileDetCPU", architecture=mobiledet.CPU), unit_range
    ),
    "ssd_mobiledet_dsp": SsdExtractor(
        partial(halved.ssd_mobiledet, scope="MobileDetDSP", architecture=mobiledet.DSP), unit_range
    ),
    "ssd_mobiledet_edgetpu": SsdExtractor(
        partial(halved.ssd_mobiledet, scope="MobileDetEdgeTPU", architecture=mobiledet.EDGETPU), unit_range
    ),
    "ssd_mobiledet_gpu": SsdExtractor(
        partial(halved.ssd_mobiledet, scope="MobileDetGPU", architecture=mobiledet.GPU), unit_range
    ),
    "ssd_pnasnet": SsdExtractor(halved.ssd_pnasnet, unit_range, ("num_layers",)),
    "ssd_spaghettinet": SsdExtractor(pyramids.ssd_spaghettinet, unit_range, ("spaghettinet_arch_name",)),
    "ssd_mobilenet_v1_keras": SsdExtractor(keras.ssd_mobilenet_v1_keras, unit_range, ("num_layers",), tf2=True),
    "ssd_mobilenet_v2_keras": SsdExtractor(keras.ssd_mobilenet_v2_keras, unit_range, ("num_layers",), tf2=True),
    "ssd_mobilenet_v1_fpn_keras": SsdExtractor(keras.ssd_mobilenet_v1_fpn_keras, unit_range, ("fpn",), tf2=True),
    "ssd_mobilenet_v2_fpn_keras": SsdExtractor(keras.ssd_mobilenet_v2_fpn_keras, unit_range, ("fpn",), tf2=True),
    **{
        f"ssd_resnet{depth}_v1_fpn_keras": SsdExtractor(
            partial(keras.ssd_resnet_v1_fpn_keras, architecture=f"resnet_v1_{depth}"),
            mean_subtracted,
            ("fpn",),
            tf2=True,
        )
        for depth in (50, 101, 152)
    },
    **{
        f"ssd_efficientnet-{size}_bifpn_keras": SsdExtractor(
            partial(keras.ssd_efficientnet_bifpn_keras, size=size), standardized, ("bifpn",), tf2=True
        )
        for size in keras.BIFPNS
    },
}
