"""The runner: the entry script of every run on the training VM, and the only part of a run that may speak to the outside.

It fetches the verified blobs, runs the project's script where there is no network and no credential, and lets metrics, log
lines and the model out through one gate that records each of them. Nothing here needs more than the standard library,
except :mod:`edge_run.report`, which speaks to Azure ML.

::

    __main__   the command line
    runner     one run from beginning to end, and what happens when it fails
    grant      the permission to read exactly the verified blobs
    fetch      gets them and proves that they are the verified ones
    workspace  the private folder of a run, and how it is removed; wipe: what killed runs left
    files      opens and removes what may be prepared to mislead
    sandbox    where the script runs; sandboxes: the kinds that need nothing installed; self_test: the proof from inside
    script     starts the script there and listens to it
    watch      sees what it takes in all
    protocol   what the script can say (edge_context says it)
    policy     how much may leave
    scan       finds training data in text and files
    gate       decides about each item that wants to leave, and remembers it
    report     tells Azure ML
"""
