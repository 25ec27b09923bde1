"""Checks receipts without any service, and prints them for a person."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from edge_training.exceptions import ResidencyError
from edge_training.residency.receipt import SignedReceipt, check_chain, read_receipt
from edge_training.residency.submitted import FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DESCRIPTION = """Check the signatures and the chain of residency receipts, offline, and print what left the premises.

Exit status: 0 when every byte is as it was signed, nothing is missing in between, and no receipt tells of differences; 1 when anything was
tampered with; 2 when files cannot be read; 3 when the receipts are sound and tell that something left that was not let out."""


@dataclass(frozen=True)
class Verdict:
    """What came of checking receipts.

    :param receipts: those whose signatures hold, by site and number.
    :param faults: what is wrong, one sentence each.
    """

    receipts: tuple[SignedReceipt, ...]
    faults: tuple[str, ...]


def verify(contents: Sequence[tuple[str, bytes]], key: str = "", head: str = "") -> Verdict:
    """Check receipts against their signatures and against each other.

    :param contents: name and bytes of each receipt, in any order.
    :param key: the site's public key, or ``""`` when any key will do.
    :param head: the digest that one of the receipts must have, such as the one that stands on the newest model; or ``""``.
    """
    receipts: list[SignedReceipt] = []
    faults: list[str] = []
    for name, content in contents:
        try:
            receipts.append(read_receipt(content, name, key))
        except ResidencyError as error:
            faults.append(str(error))
    receipts.sort(key=lambda one: (one.site, one.sequence))
    for _, chain in groupby(receipts, key=lambda one: one.site):
        faults += check_chain(list(chain))
    if head and head not in {receipt.digest for receipt in receipts}:
        faults.append(f"None of the receipts is {head}.")
    return Verdict(tuple(receipts), tuple(faults))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    :param argv: the command line without the program.
    """
    parser = argparse.ArgumentParser(
        prog="python -m edge_training.residency",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "verify", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument(
        "receipts", nargs="+", type=Path, metavar="RECEIPT", help="a receipt's file, or a folder of them"
    )
    command.add_argument(
        "--key", type=Path, help="the site's public key (residency_key.pub); without it any key will do"
    )
    command.add_argument(
        "--head", default="", help="a digest that one of the receipts must have, as on the newest model"
    )
    command.add_argument("--quiet", action="store_true", help="print faults only")
    options = parser.parse_args(argv)
    try:
        key = " ".join(options.key.read_text(encoding="ascii").split()[:2]) if options.key else ""
        contents = [(str(path), path.read_bytes()) for path in _files(options.receipts)]
    except (OSError, UnicodeDecodeError) as error:
        print(f"Cannot be read: {error}", file=sys.stderr)
        return 2
    verdict = verify(contents, key, options.head)
    if not options.quiet:
        for line in report(verdict, pinned=bool(key)):
            print(line)
    for fault in verdict.faults:
        print(f"FAULT  {fault}", file=sys.stderr)
    return _status(verdict)


def _status(verdict: Verdict) -> int:
    if verdict.faults or not verdict.receipts:
        return 1
    return 0 if all(receipt.body["audit"]["result"] == "clean" for receipt in verdict.receipts) else 3


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            # The container also has notes, which are no receipts.
            yield from (file for file in sorted(path.rglob("*.json")) if FOLDER not in file.relative_to(path).parts)
        else:
            yield path


def report(verdict: Verdict, *, pinned: bool) -> Iterator[str]:
    """Yield the receipts for a person, line by line.

    :param verdict: what came of checking them.
    :param pinned: whether the key was given.
    """
    for receipt in verdict.receipts:
        try:
            yield from [_printable(line) for line in _about(receipt)]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            yield f"{receipt.digest}: a receipt with a good signature that does not say what receipts say ({type(error).__name__})"
    for key in sorted({receipt.key for receipt in verdict.receipts}):
        yield f"signed with {key}" + ("" if pinned else "  (compare it with the site's: none was given with --key)")
    for site, chain in groupby(verdict.receipts, key=lambda one: one.site):
        numbers = [receipt.sequence for receipt in chain]
        yield f"site {site}: receipts {numbers[0]} to {numbers[-1]}, {len(numbers)} of them with good signatures"
    yield f"{len(verdict.faults)} faults" if verdict.faults else "no faults"


def _printable(line: str) -> str:
    """Return a line without what a terminal would obey; a receipt that another key has signed may hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _about(receipt: SignedReceipt) -> Iterator[str]:
    body = receipt.body
    run, data, code, sandbox, audit = (body[name] for name in ("run", "data", "code", "sandbox", "audit"))
    out = dict(body["bytes_out"])
    total = out.pop("total", 0)
    open_checks = [name for name, found in (sandbox.get("self_test") or {}).items() if found != "closed"]
    yield f"{receipt.site} {receipt.sequence}  {body['issued']}  {receipt.digest}"
    yield f"  run       {run['id']} ({run['state']}) of DAG run {run['dag_run_id']}"
    yield f"  data      {data['fingerprint']}, {data['blobs']} blobs, {data['bytes']:,} bytes"
    yield f"  code      {code['digest']}, {code['files']} files, {code['bytes']:,} bytes"
    found = "every way out was tried and was closed" if sandbox.get("self_test") else "nothing is known of a self-test"
    found = f"open: {', '.join(open_checks)}" if open_checks else found
    yield f"  sandbox   {sandbox.get('kind') or 'none'}; {found}"
    yield f"  left      {len(body['items'])} items; {total:,} bytes in all: " + ", ".join(
        f"{kind} {size:,}" for kind, size in out.items()
    )
    for item in body["items"]:
        if item["kind"] == "model":
            yield f"              {item['name']}, {item['bytes']:,} bytes, sha256:{item['sha256']}"
    for item in body["withheld"]:
        yield f"  held back {item['kind']}: {item['reason']}"
    wiped = body["wiped"]
    grant = "and the grant" if wiped.get("grant") else "NOT the grant"
    yield (
        f"  wiped     {wiped.get('files', 0)} files, {grant}"
        if wiped
        else "  wiped     not by the run itself, which was killed"
    )
    yield f"  audit     {audit['result']}: " + ", ".join(
        f"{count} {kind.replace('_', ' ')}" for kind, count in audit["compared"].items()
    )
    for one in audit["differences"]:
        yield f"              {one['where']} {one['what']}: let out {one['expected']}, found {one['found']}"
