"""Why a run can fail, with the code that stands on the run in Azure ML.

A message is read by people who see only Azure ML: it never carries a credential or a value from the training data.
"""

from __future__ import annotations


class EdgeRunError(Exception):
    """The root: whatever ends a run on purpose.

    :cvar code: the error code that the run gets in Azure ML.
    """

    code = "EdgeRunError"


class UsageError(EdgeRunError):
    """The runner was started in a way that it does not understand."""

    code = "Usage"


class GrantError(EdgeRunError):
    """The permission to read the data is missing, out of date, for other data, or was left open to others."""

    code = "Grant"


class DataError(EdgeRunError):
    """A blob cannot be fetched, or is not the blob that was verified."""

    code = "Data"


class SandboxError(EdgeRunError):
    """No sandbox can be made, or the one that was made does not hold."""

    code = "Sandbox"


class ProtocolError(EdgeRunError):
    """The script said something that the runner does not understand."""

    code = "Protocol"


class ScriptError(EdgeRunError):
    """The script raised, was killed, took too long, or left no model."""

    code = "Script"


class WithheldError(EdgeRunError):
    """The script wanted to send something that the policy does not let out."""

    code = "Withheld"


class ReportError(EdgeRunError):
    """Azure ML did not take what the run has to tell."""

    code = "Report"


class CanceledError(EdgeRunError):
    """Somebody ended the run with a signal."""

    code = "Canceled"
