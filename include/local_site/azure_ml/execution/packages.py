"""Environments of pip packages: a virtual environment on the machine, made once per definition and shared by its runs."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

from local_site.azure_ml.errors import BadRequestError
from local_site.azure_ml.web import field_of

PYTHON = re.compile(r"python\s*=+\s*(\d+\.\d+)(?:\.\d+|\.\*)?")

# Two runs that need the same environment wait for each other; one that was killed on the way leaves nothing to wait for,
# and what it left half-made is removed.
PREPARE = """umask 077
mkdir -p {folder} && exec 9> {folder}/{name}.lock && flock 9 || exit 1
[ ! -e {folder}/{name}/ready ] || exit 0
(
python=$(command -v python{version}) || python=$(command -v python3) || {{ echo "There is no python3 on this machine."; exit 1; }}
found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$found" = {version} ] || {{
echo "The environment asks for Python {version}, and this machine has $found: set_python_version('$found')."; exit 1; }}
rm -rf {folder}/{name} && mkdir {folder}/{name} && cd {folder}/{name} && printf '%s' {requirements} > requirements.txt || exit 1
if "$python" -m pip help 2>/dev/null | grep -q -e '--python '; then
"$python" -m venv --without-pip env && "$python" -m pip --python env/bin/python install {options} -r requirements.txt
elif "$python" -c 'import ensurepip, venv' 2>/dev/null; then
"$python" -m venv env && env/bin/python -m pip install {options} -r requirements.txt
elif command -v uv >/dev/null; then
uv venv --quiet --python "$python" env && uv pip install --quiet --python env/bin/python -r requirements.txt
else echo "This machine can make no virtual environment: install python3-pip, python3-venv or uv."; exit 1; fi && : > ready
) > {folder}/{name}.log 2>&1 || {{ cat {folder}/{name}.log; exit 1; }}
"""


@dataclass(frozen=True)
class PipEnvironment:
    """What a virtual environment consists of.

    :param version: of Python, such as ``3.11``.
    :param requirements: lines of a requirements file, in their order.
    """

    version: str
    requirements: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the folder's name: the same for the same content."""
        content = json.dumps([self.version, self.requirements])
        return hashlib.sha256(content.encode()).hexdigest()[:24]

    def interpreter(self, home: str) -> str:
        """Return its Python on the machine."""
        return f"{home}/azureml/envs/{self.name}/env/bin/python"

    def script(self, home: str) -> bytes:
        """Return the shell script that makes it, or finds that it is made."""
        return PREPARE.format(
            folder=shlex.quote(f"{home}/azureml/envs"),
            name=self.name,
            version=self.version,
            options="--quiet --no-input --disable-pip-version-check",
            requirements=shlex.quote("".join(f"{line}\n" for line in self.requirements)),
        ).encode()


def read_packages(python: dict[str, Any]) -> PipEnvironment:
    """Read the Conda specification of an environment that consists of Python and pip packages only.

    :raises BadRequestError: when it asks for Conda packages, or is no specification.
    """
    conda = field_of(python, "condaDependencies", dict)
    version, lines = "", []
    for item in field_of(conda, "dependencies", list):
        if isinstance(item, dict) and set(item) == {"pip"} and isinstance(item["pip"], list):
            lines += [_line(line) for line in item["pip"]]
        elif isinstance(item, str) and (match := PYTHON.fullmatch(item.strip())):
            version = match.group(1)
        elif item not in {"pip", "python"} if isinstance(item, str) else True:
            raise BadRequestError(
                f"the Conda package {item!r} cannot be installed; only Python itself and pip packages can. Or set "
                "environment.python.user_managed_dependencies to True and interpreter_path to a Python on the machine."
            )
    if not version:
        raise BadRequestError("the environment names no version of Python; call set_python_version().")
    return PipEnvironment(version, tuple(lines))


def _line(item: Any) -> str:
    if not isinstance(item, str) or any(ord(char) < 32 for char in item):
        raise BadRequestError(f"{item!r} is not a line of pip requirements.")
    return item
