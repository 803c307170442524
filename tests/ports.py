"""Ranks that meet on this machine: a port, and what starts them."""

import socket
from random import SystemRandom

# Below those that the system hands out by itself: nobody is given one between its choice and its use.
_PORTS = range(20_000, 30_000)


def torchrun(n_ranks: int) -> list[str]:
    """What stands between `python` and the words of a module that so many ranks run."""
    words = ["-m", "torch.distributed.run", "--nproc_per_node", str(n_ranks)]
    return [*words, "--master_port", str(free_port())]


def free_port() -> int:
    """A port that nobody listens on."""
    for port in SystemRandom().sample(_PORTS, 100):
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port among 100 of {_PORTS}")
