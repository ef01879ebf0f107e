"""Deploys a SavedModel folder: TensorFlow Serving, KServe, SageMaker. Nothing here knows a detector's config."""
