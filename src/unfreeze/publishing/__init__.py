"""Publishes a SavedModel as a numbered version of a model base path, on disk or in an object store."""
