"""Ends the process, or refuses, when it or a child of it opens a socket: by a seccomp filter.

Stronger than a mock: it also sees what native libraries do in threads of their own.
"""

from __future__ import annotations

import ctypes
import platform
import struct

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
KILL, REFUSE, _ALLOW = 0x8000_0000, 0x0005_0001, 0x7FFF_0000
_SOCKET = {"x86_64": 41, "aarch64": 198}


def forbid_sockets(answer: int = KILL) -> None:
    """From now on socket(2) gets *answer*, in this process and all it starts."""
    number = _SOCKET[platform.machine()]
    # struct sock_filter {code, jump if true, jump if false, value}: the syscall's number is the
    # first word of what a filter sees.
    instructions = (
        (_LOAD_WORD, 0, 0, 0),
        (_JUMP_IF_EQUAL, 0, 1, number),
        (_RETURN, 0, 0, answer),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HxxxxxxP", len(instructions), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(program), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
