"""Backbones: one module for each family of networks, with a table of its blocks and a function.

The function is `f(x, p, ...) -> stages`: [N, H, W, 3] in, a dict of named feature maps [N, h, w, C] out.
"""
