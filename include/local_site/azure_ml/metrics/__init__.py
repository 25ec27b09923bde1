"""The metrics that runs report."""
