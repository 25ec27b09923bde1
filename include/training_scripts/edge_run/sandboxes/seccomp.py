"""A filter of system calls: no network, no looking into other processes, nothing that a file system rule would miss.

Only for x86-64, by whose numbers it goes: a call that is newer than this list is refused like one that does not exist, so that the
list need not be kept up to date to hold.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from edge_run.sandboxes.kernel import NEW_NAMESPACES, machine, system_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MACHINE = "x86_64"
_ARCHITECTURE = 0xC000003E
_NEWEST = 451
_SECCOMP, _SET_FILTER, _ALL_THREADS = 317, 1, 1
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _GREATER, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x54, 0x06
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
_UNIX, _STREAM, _KIND_OF_SOCKET = 1, 1, 0xF

CLONE, CLONE3, SOCKETPAIR, PRLIMIT = 56, 435, 53, 302


def _table(text: str) -> dict[str, int]:
    return {name: int(number) for name, number in (word.split(":") for word in text.split())}


# A pair of sockets of one's own is all right.
_NETWORK = _table("socket:41 connect:42 accept:43 bind:49 listen:50 accept4:288")
_OTHER_PROCESSES = _table("""
    ptrace:101 process_vm_readv:310 process_vm_writev:311 kcmp:312 pidfd_open:434 pidfd_getfd:438 process_madvise:440
    perf_event_open:298 migrate_pages:256 move_pages:279
""")
# All of a script is in one group of processes, which ends together.
_OUT_OF_THE_GROUP = _table("setpgid:109 setsid:112")
# Landlock does not look at modes, owners, times and attributes of files, wherever these are, nor at who watches them.
_BESIDE_LANDLOCK = _table("""
    chmod:90 fchmod:91 fchmodat:268 chown:92 fchown:93 lchown:94 fchownat:260 truncate:76 utime:132 utimes:235 futimesat:261
    utimensat:280 setxattr:188 lsetxattr:189 fsetxattr:190 removexattr:197 lremovexattr:198 fremovexattr:199
    inotify_add_watch:254 fanotify_init:300 open_by_handle_at:304 name_to_handle_at:303
""")
_STAYS_IN_THE_KERNEL = _table("shmget:29 semget:64 msgget:68 mq_open:240 add_key:248 request_key:249 keyctl:250")
_NAMESPACES_AND_MOUNTS = _table("""
    unshare:272 setns:308 mount:165 umount2:166 pivot_root:155 chroot:161 open_tree:428 move_mount:429 fsopen:430 fsconfig:431
    fsmount:432 fspick:433 mount_setattr:442
""")
# Ways around a filter, and what a training script has no use for.
_THE_REST = _table("""
    io_uring_setup:425 io_uring_enter:426 io_uring_register:427 bpf:321 userfaultfd:323 syslog:103 init_module:175
    finit_module:313 delete_module:176 kexec_load:246 kexec_file_load:320 acct:163 reboot:169 swapon:167 swapoff:168 iopl:172
    ioperm:173 quotactl:179 quotactl_fd:443 sethostname:170 setdomainname:171 settimeofday:164 clock_settime:227 adjtimex:159
    uselib:134
""")
REFUSED = {
    **_NETWORK,
    **_OTHER_PROCESSES,
    **_OUT_OF_THE_GROUP,
    **_BESIDE_LANDLOCK,
    **_STAYS_IN_THE_KERNEL,
    **_NAMESPACES_AND_MOUNTS,
    **_THE_REST,
}
SIGNALS = _table("kill:62 tkill:200 tgkill:234 rt_sigqueueinfo:129 rt_tgsigqueueinfo:297 pidfd_send_signal:424")


def restrict(*, signals: bool) -> None:
    """Install the filter, for this process and all that come from it; it cannot be taken off.

    :param signals: whether signals may be sent; only where something else keeps them from other processes.
    :raises OSError: when the kernel cannot do it.
    """
    if machine() != MACHINE:
        raise OSError(errno.ENOSYS, f"the filter of system calls is for {MACHINE}, this machine is {machine()}")
    program = b"".join(_program({} if signals else SIGNALS))
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    system_call("no filter of system calls", _SECCOMP, ctypes.c_uint(_SET_FILTER), ctypes.c_uint(_ALL_THREADS), header)


def _program(more: dict[str, int]) -> Iterator[bytes]:
    """Yield the filter's instructions; a jump's two numbers say how many instructions to leave out when it holds, and when not."""
    refuse = _step(_RETURN, _ERROR | errno.EPERM)
    missing = _step(_RETURN, _ERROR | errno.ENOSYS)
    allow = _step(_RETURN, _ALLOW)
    yield _step(_LOAD, _MACHINE)
    yield from (_step(_EQUAL, _ARCHITECTURE, 1, 0), _step(_RETURN, _KILL))
    yield _step(_LOAD, _NUMBER)
    # The C library does without the newer clone, whose flags a filter cannot see.
    yield from (_step(_GREATER, _NEWEST, 1, 0), _step(_EQUAL, CLONE3, 0, 1), missing)
    for number in sorted({**REFUSED, **more}.values()):
        yield from (_step(_EQUAL, number, 0, 1), refuse)
    yield from (_step(_EQUAL, CLONE, 0, 4), _argument(0), _step(_ANY_BIT, NEW_NAMESPACES, 0, 1), refuse, allow)
    # The limits of another process are not the script's to set.
    yield from (_step(_EQUAL, PRLIMIT, 0, 4), _argument(0), _step(_EQUAL, 0, 1, 0), refuse, allow)
    # A pair that sends datagrams could send them to others, too.
    yield from (_step(_EQUAL, SOCKETPAIR, 0, 6), _argument(0), _step(_EQUAL, _UNIX, 0, 3))
    yield from (_argument(1), _step(_AND, _KIND_OF_SOCKET), _step(_EQUAL, _STREAM, 1, 0), refuse)
    yield allow


def _step(code: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_so, if_not, value)


def _argument(place: int) -> bytes:
    """Load the lower half of an argument; the kernel looks at no more of those that are asked for here."""
    return _step(_LOAD, _ARGUMENTS + 8 * place)
