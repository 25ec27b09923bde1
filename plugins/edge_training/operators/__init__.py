"""One module per step of the pattern."""
