"""Measures how well a detector finds the objects of annotated images."""
