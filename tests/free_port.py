"""Where may a process listen that is told its address before it starts? Printed when this is run."""

import contextlib
import itertools
import os
import socket

# Below the ports that the system hands out by itself, of which another process may be given one before it is used.
# Processes that run beside each other begin far apart.
_ports = itertools.cycle(range(12_000, 32_000))
for _ in range(os.getpid() * 997 % 20_000):
    next(_ports)


def free_port() -> int:
    """A port of loopback at which nothing listens, and which this process hands out only once."""
    for port in itertools.islice(_ports, 20_000):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


if __name__ == "__main__":
    print(free_port())
