"""A model file of a few bytes."""

from __future__ import annotations

# Version 8 of the format, and a graph with a name: as little as an ONNX file can be.
TINY_ONNX = b"\x08\x08" + b"\x3a\x06\x12\x04tiny"
