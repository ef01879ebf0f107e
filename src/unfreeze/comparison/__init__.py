"""Compares two models (`diff`), and a SavedModel with the model that it was exported from (`verify`)."""
