"""The environment of all tests, and how they are divided between two workers."""

import os

import pytest

# The goldens and their tolerances were recorded without oneDNN, which rounds in another order and is on by default only
# on some CPUs. TensorFlow reads this variable when it is imported. test_onednn_goldens.py covers oneDNN.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# Tests of messages read the lines of this process on stderr; TensorFlow writes its warnings there too.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Their tests share nothing, and take so long that one worker would be busy with them after the other has ended.
INDEPENDENT = {"test_parity.py", "test_load_detector.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the tests of a file in one worker of `--dist loadgroup`, since they share exports."""
    for item in items:
        if item.path.name not in INDEPENDENT:
            item.add_marker(pytest.mark.xdist_group(item.path.name))
