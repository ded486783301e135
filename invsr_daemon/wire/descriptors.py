"""Open files that go along with requests, through a socket of their own."""

from __future__ import annotations

import socket

# The environment's name for a process's end of the socket.
VARIABLE = "INVSR_DAEMON_DESCRIPTORS"
_MARK = b"\0"  # a descriptor needs something that it goes along with


def send_descriptor(channel: socket.socket, descriptor: int | None) -> None:
    """One for each request, or none. Raises OSError."""
    if descriptor is None:
        channel.sendall(_MARK)
    else:
        socket.send_fds(channel, [_MARK], [descriptor])


def receive_descriptor(channel: socket.socket) -> int | None:
    """What was sent along with a request: now open here, too."""
    _, descriptors, _, _ = socket.recv_fds(channel, len(_MARK), 1, socket.MSG_CMSG_CLOEXEC)
    return descriptors[0] if descriptors else None
