"""Finds training data in what wants to leave: in text, in binary files, and in what is packed or encoded in either.

It looks for rows, not for numbers: a run of neighbouring cells that is too long to be there by chance. How long that is follows
from the data itself (how much a cell says, how many cells there are), so that one setting fits wide and narrow tables.

::

    hashing      how runs of cells become numbers that can be looked up, and the sets that hold them
    tables       reads the blobs into rows of cells
    fingerprint  what is remembered of the data: only hashes
    patterns     how cells look in binary files
    binary       searches bytes
    text         searches lines, metrics and names, across all of them
    tokens       what looks encoded rather than written
    unpack       opens archives, compressed and encoded parts
    onnx         tells whether a file is an ONNX model
    scanner      puts the searches together
    command      ``python -I edge_run/__main__.py scan ...``

numpy makes it fast where the interpreter has it; without it the same is found, more slowly.
"""
