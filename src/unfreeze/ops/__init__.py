"""Functions on tensors: layers, images, boxes, anchors, box coders, non-maximum suppression."""
