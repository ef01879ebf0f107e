"""Recognizes what a checkpoint contains besides weights: moving averages, optimizer slots, counters.

The names are those of the checkpoint. Slots: tf.train.{Momentum,Adam,RMSProp,Adagrad,Ftrl}Optimizer. Quantization
state: tf.contrib.quantize.
"""

import re

from unfreeze.weights.checkpoints import OBJECT_GRAPH

MOVING_AVERAGE = "/ExponentialMovingAverage"
TRAINING_STATE = {
    "moving averages": (MOVING_AVERAGE,),
    "optimizer slots": (
        "/Momentum",
        "/Adam",
        "/Adam_1",
        "/RMSProp",
        "/RMSProp_1",
        "/Adagrad",
        "/Ftrl",
        "/Ftrl_1",
    ),
    "quantization state": ("/min", "/max", "/biased", "/local_step"),
}
COUNTERS = ("global_step", "beta1_power", "beta2_power", "fake_quantization_step", "save_counter", OBJECT_GRAPH)
# Training state in the keys of TensorFlow 2, which are paths from the root of its object graph.
OBJECT_SLOT = "/.OPTIMIZER_SLOT/"
OBJECT_COUNTERS = ("save_counter/", "step/", "optimizer/")
# The FakeQuants in a dropout exist in the training graph only.
_RANGE = re.compile(r"(?!.*/Dropout/).*_quant(_\d+)?/(min|max)$")


def training_state(key: str) -> str:
    """Returns the kind of training state that a key is: a key of TRAINING_STATE, "counters", or "" for a weight."""
    if OBJECT_SLOT in key:
        return "optimizer slots"
    if key in COUNTERS or key.startswith(OBJECT_COUNTERS):
        return "counters"
    return next((state for state, endings in TRAINING_STATE.items() if key.endswith(endings)), "")


def is_range(key: str) -> bool:
    """Returns whether a key is the minimum or the maximum of a FakeQuant that the inference graph has too."""
    return bool(_RANGE.match(key))
