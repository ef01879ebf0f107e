"""Identifies a file or a folder and reports its problems, without running a model."""
