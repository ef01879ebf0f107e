"""TensorFlow Lite models with the operation TFLite_Detection_PostProcess, and their metadata."""
