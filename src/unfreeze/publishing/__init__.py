"""A SavedModel -> a numbered version under a model base path, on disk or in an object store."""
