"""What an image's Python compiles is kept on the host: once, beside its sources, for all images above, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.deployment.support import ask, push_image
from tests.integration.images.support import Registry, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.deployment.support import Host

PART = b"VALUE = 1\n"
INSIDE = "/tmp/.edge-serving/compiled"


def code(text: str) -> tuple[str, ...]:
    return ("python3", "-c", text)


IMPORTS = code("import sys; sys.path.insert(0, '/app'); import part")


def pushed(
    registry: Registry,
    version: int,
    command: tuple[str, ...],
    *,
    with_model: bool = True,
    top: bytes = b"",
    **files: bytes,
) -> str:
    """Push an image with a module that it can import, and others that make its layer one of its own."""
    named = {"app/part.py": PART} | {f"app/{name}.py": content for name, content in files.items()}
    with registry.client() as client:
        return push_image(client, version, files=named, command=command, with_model=with_model, top=top)


def kept(host: Host) -> set[Path]:
    """Return what the images' folders for compiled modules hold, but for what the base brings along."""
    found = (host.home / ".edge-training/serving/images").glob("*.chain/root/**/__pycache__/*")
    return {path for path in found if "usr/lib/python3" not in str(path)}


def test_modules_are_compiled_once_and_the_image_is_still_whole(registry: Registry, host: Host) -> None:
    digest = pushed(registry, 11, IMPORTS)
    assert host.run("pull", digest=digest).value["compiled"] == 0
    before = kept(host)
    first = host.run("pull", digest=digest, compile=True).value
    assert (first["compiled"], first["not_compiled"]) == (1, "")
    (made,) = kept(host) - before
    assert made.name.startswith("part.cpython-")
    assert made.parent.parent.joinpath("part.py").read_bytes() == PART
    written = made.stat().st_mtime_ns
    again = host.run("pull", digest=digest, compile=True).value
    assert (again["compiled"], again["fetched_layers"], made.stat().st_mtime_ns) == (1, 0, written)


def test_an_image_above_has_them_from_below_and_python_loads_them(registry: Registry, host: Host) -> None:
    loads = "import os, sys; sys.path.insert(0, '/app'); import part"
    serve = code(
        f"{loads}; os.environ['VERSION'] = str(os.path.exists(part.__cached__)); exec(open('/app/serve.py').read())"
    )
    below = pushed(registry, 12, IMPORTS, with_model=False, twelve=b"")
    above = pushed(registry, 13, serve, twelve=b"")
    host.run("pull", digest=below, compile=True)
    port = free_port()
    nothing = {"cases": [], "tolerance": {"absolute": 0, "relative": 0}}
    assert host.deploy("loads", port, above, 13, probe=nothing).error is None
    assert ask(port)[1]["version"] == "True"


def test_an_image_has_them_also_when_its_lower_layers_were_unpacked_before(registry: Registry, host: Host) -> None:
    shared = pushed(registry, 16, IMPORTS, with_model=False, sixteen=b"")
    first, second = (pushed(registry, 16, IMPORTS, top=top, sixteen=b"") for top in (b"1", b"2"))
    before = kept(host)
    host.run("pull", digest=first)
    assert kept(host) == before
    host.run("pull", digest=shared, compile=True)
    (made,) = kept(host) - before
    # All but the uppermost layer is there, without what was compiled meanwhile.
    assert host.run("pull", digest=second).value["fetched_layers"] == 1
    (found,) = kept(host) - before - {made}
    assert found.samefile(made)
    assert (found.parents[2] / "top/file").read_bytes() == b"2"
    assert host.run("pull", digest=second).value["fetched_layers"] == 0


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (code("import sys; sys.path.insert(0, '/app'); import part; sys.exit('it failed')"), "it failed"),
        (code("import nothing_of_that_name"), "No module named 'nothing_of_that_name'"),
        (("/no/such/program",), "/no/such/program"),
    ],
)
def test_a_command_that_fails_leaves_the_image_as_it_was(
    registry: Registry, host: Host, command: tuple[str, ...], reason: str
) -> None:
    before = kept(host)
    digest = pushed(registry, 14, command, fourteen=repr(command).encode())
    found = host.run("pull", digest=digest, compile=True).value
    assert (found["compiled"], kept(host)) == (0, before)
    assert "exit status" in found["not_compiled"]
    assert reason in found["not_compiled"]
    # Tried again the next time, and all layers are whole.
    again = host.run("pull", digest=digest, compile=True).value
    assert (again["not_compiled"], again["fetched_layers"]) == (found["not_compiled"], 0)


@pytest.mark.parametrize(
    "written",
    [
        # A link, as if it were a compiled module.
        f"os.symlink('/etc/passwd', '{INSIDE}/app/part.cpython-311.pyc')",
        # Of a module that the image does not have.
        f"open('{INSIDE}/app/other.cpython-311.pyc', 'w')",
        # Not a compiled module at all.
        f"open('{INSIDE}/app/part.py', 'w')",
        # In a folder that the image does not have.
        f"os.makedirs('{INSIDE}/elsewhere'); open('{INSIDE}/elsewhere/part.cpython-311.pyc', 'w')",
        f"os.mkfifo('{INSIDE}/app/part.cpython-311.pyc')",
    ],
)
def test_only_compiled_modules_of_the_image_s_own_sources_are_kept(
    registry: Registry, host: Host, written: str
) -> None:
    before = kept(host)
    command = code(f"import os; os.makedirs('{INSIDE}/app'); {written}; open('{INSIDE}/app/more.cpython-311.pyc', 'w')")
    digest = pushed(registry, 15, command, more=written.encode())
    assert host.run("pull", digest=digest, compile=True).error is None
    # What it wrote before is not there, though it went on to the end.
    assert [path.name for path in kept(host) - before] == ["more.cpython-311.pyc"]
