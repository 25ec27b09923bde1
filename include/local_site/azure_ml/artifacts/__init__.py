"""Files by name: what runs and model uploads left, each backed by one blob."""
