"""Runs a detector on images: from a file or a server, on a few images or on millions."""
