"""Retrains models where their data lives, and proves that the data stayed there."""
