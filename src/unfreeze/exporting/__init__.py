"""Exports a checkpoint or a frozen graph as a verified SavedModel with its record, export.json."""
