"""The settings of oneDNN that the benchmarks run under, and what a process's environment says about them."""

from __future__ import annotations

import os
from collections.abc import Mapping

from unfreeze.onednn import ASSUME_FROZEN_WEIGHTS, ENABLE

MAX_CPU_ISA = "ONEDNN_MAX_CPU_ISA"
SETTINGS = {
    "off": {ENABLE: "0", ASSUME_FROZEN_WEIGHTS: "0"},
    "on": {ENABLE: "1", ASSUME_FROZEN_WEIGHTS: "0"},
    "assumed": {ENABLE: "1", ASSUME_FROZEN_WEIGHTS: "1"},
}


def onednn_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that oneDNN heeds, as they are set in an environment (default: this process's own)."""
    return {name: environment.get(name, "not set") for name in (ENABLE, ASSUME_FROZEN_WEIGHTS, MAX_CPU_ISA)}
