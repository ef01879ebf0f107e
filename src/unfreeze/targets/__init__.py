"""A SavedModel folder -> where it serves: versions, TensorFlow Serving, SageMaker, KServe."""
