"""The errors of the demo.

DemoError                   the demo cannot go on; a person has to look
└── RunFailedError          the DAG run ended, but not well
"""

from __future__ import annotations


class DemoError(Exception):
    """The demo cannot go on; the message says why and what to do."""


class RunFailedError(DemoError):
    """The DAG run ended, but not well; what its tasks said was shown before."""
