"""Heads: networks from feature maps or crops to raw outputs (box encodings, class logits, masks)."""
