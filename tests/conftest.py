"""The environment of all tests, and how they are divided between two workers."""

import os
from pathlib import Path
from typing import Any

import pytest

# The goldens and their tolerances were recorded without oneDNN, which rounds in another order and is on by default only
# on some CPUs. TensorFlow reads this variable when it is imported. test_onednn_goldens.py covers oneDNN.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# Tests of messages read the lines of this process on stderr; TensorFlow writes its warnings there too.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Their tests share nothing, and take so long that one worker would be busy with them after the other has ended.
INDEPENDENT = {"test_parity.py", "test_load_detector.py"}


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keeps the tests of a file in one worker of `--dist loadfile`, since they share exports, but not INDEPENDENT ones.

    (The groups of `--dist loadgroup` have no effect with pytest 9 and pytest-xdist 3.8, which cannot rename tests.)
    """
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path: str = super()._split_scope(nodeid)
            return nodeid if Path(path).name in INDEPENDENT else path

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None
