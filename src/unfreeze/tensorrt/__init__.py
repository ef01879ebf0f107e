"""An SSD that ends in TensorRT's plugin EfficientNMS_TRT, and what can be checked of it without TensorRT."""
