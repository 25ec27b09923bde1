"""The source folders of runs, as trees of files; a snapshot names its parent and brings only what changed."""
