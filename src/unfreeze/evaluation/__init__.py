"""A detector and annotated pictures -> how good it is."""
