"""What is run on the training VM to learn about it. Each is sent over standard input, so nothing has to be installed there."""

from __future__ import annotations

import json

# POSIX shell and coreutils only: it must also work where the Python that it looks for is missing. Arguments: the interpreter and the
# folder that runs work in, either may begin with "~/". The body is a function so that nothing in it can read the script as its input.
MEASURE = r"""
say() { printf '%s=%s\n' "$1" "$(printf %s "$2" | head -n 1)"; }
expand() { case "$1" in '~') printf %s "$HOME";; '~/'*) printf %s "$HOME/${1#??}";; *) printf %s "$1";; esac; }
quick() { timeout 20 "$@" 2>/dev/null; }
main() {
  say time "$(date +%s)"
  python=$(expand "$1")
  case "$python" in */*) ;; *) python=$(command -v "$python" || printf %s "$python");; esac
  work=$(expand "$2")
  while [ ! -d "$work" ]; do work=$(dirname "$work"); done
  say home "$HOME"
  say uid "$(id -u)"
  say cpus "$(nproc)"
  say memory_kib "$(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo)"
  say disk_free_kib "$(df -Pk "$work" | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4)"
  say gpus "$(quick nvidia-smi -L | grep -c '^GPU ')"
  say docker "$(quick docker version --format '{{.Server.Version}}')"
  say bwrap "$(command -v bwrap)"
  failure=$(bwrap --ro-bind / / --unshare-all --die-with-parent true 2>&1) && failure=
  say bwrap_error "$failure"
  other=
  landlock='import ctypes, os, sys; sys.exit(os.uname().machine != "x86_64" or ctypes.CDLL(None).syscall(444, None, 0, 1) < 1)'
  quick "$python" -c "$landlock" && other=seccomp
  quick unshare --user --mount --pid --net --ipc --uts --fork true && other=namespaces
  say other_sandbox "$other"
  say python "$python"
  say python_version "$(quick "$python" -c 'import platform; print(platform.python_version())')"
}
main "$@" </dev/null
"""

_REACH = r"""
import http.client, json, socket, ssl, urllib.parse
url = urllib.parse.urlsplit(TARGET["url"])
context = ssl.create_default_context(cadata=TARGET["ca_pem"] or None)
connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=TARGET["timeout"], context=context)
detail = ""
try:
    connection.request("GET", url.path or "/")
    outcome, detail = "reached", str(connection.getresponse().status)
except socket.gaierror:
    outcome = "dns"
except ssl.SSLCertVerificationError as error:
    outcome, detail = "untrusted", error.verify_message
except ssl.SSLError as error:
    outcome, detail = "tls", error.reason or ""
except ConnectionRefusedError:
    outcome = "refused"
except TimeoutError:
    outcome = "timeout"
except (OSError, http.client.HTTPException) as error:
    outcome, detail = "failed", type(error).__name__ + ": " + str(error)
print(json.dumps({"outcome": outcome, "detail": detail}))
"""

REACH_ADVICE = {
    "dns": "the VM's DNS does not know the host: let the VM resolve the Stack Hub's names",
    "untrusted": (
        "the VM does not trust its certificate ({detail}): set extra ca_certificate of the blob connection to the Stack Hub's root "
        "certificate, and check that the endpoint's name is in its certificate"
    ),
    "tls": "what answers there does not speak TLS ({detail}): check the endpoint's port",
    "refused": "nothing listens there: check the endpoint's port and the Stack Hub's firewall",
    "timeout": "no answer came in time: open the way from the VM's network to the endpoint",
    "failed": "the connection failed ({detail})",
}


def reach_script(url: str, ca_pem: str, timeout_seconds: float) -> bytes:
    """Return a Python script that asks for an address over https and prints how that went as one JSON object.

    :param url: the address.
    :param ca_pem: certificates to trust, or ``""`` for the system's own.
    :param timeout_seconds: how long to wait for it.
    """
    target = json.dumps({"url": url, "ca_pem": ca_pem, "timeout": timeout_seconds})
    return f"import json\nTARGET = json.loads({target!r})\n{_REACH}".encode()
