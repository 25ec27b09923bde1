"""The program ``zstd`` in a folder of the tests' own: the distribution's where it is installed, else one that does the same."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_UNPACK = f"""#!{sys.executable}
import sys, zstandard
try:
    zstandard.ZstdDecompressor().copy_stream(sys.stdin.buffer, sys.stdout.buffer)
except zstandard.ZstdError as error:
    sys.exit(f"zstd: {{error}}")
"""


def add_zstd_program(folder: Path) -> None:
    """Put the program into a folder.

    :param folder: the folder.
    """
    target = folder / "zstd"
    if installed := shutil.which("zstd"):
        target.symlink_to(installed)
    else:
        target.write_text(_UNPACK)
        target.chmod(0o755)
