"""What holds for every test."""

import os

# The recorded detections and their tolerances are of TensorFlow without oneDNN, which rounds in an order of its own and
# is on by default on some CPUs only. TensorFlow reads this when it is imported. With oneDNN: test_onednn_goldens.py.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# Tests of messages read the lines of this process on stderr; TensorFlow writes its warnings there too.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
