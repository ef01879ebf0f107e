"""Networks between a backbone and the heads: from feature maps to feature maps."""
