"""Run history: experiments, runs, their tags, properties, states and events."""
