"""A checkpoint or a frozen graph -> a verified SavedModel folder with its record, export.json."""
