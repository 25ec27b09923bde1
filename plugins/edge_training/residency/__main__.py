"""Started as ``python -m edge_training.residency verify RECEIPT...``, with `plugins` on the path."""

from __future__ import annotations

import sys

from edge_training.residency.verify import main

if __name__ == "__main__":
    sys.exit(main())
