"""Compares model files side by side: speed, size, memory, detections and mAP."""
