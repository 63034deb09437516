"""Two machines on this one: network namespaces that are joined by a virtual cable and see nothing else of the network."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

_NEWNET = 0x40000000
"""CLONE_NEWNET: a network namespace."""


class Machine:
    """A network namespace with one address.

    Args:
        name: Of the namespace.
        address: Its address in the network of the two.
        cable: Its network interface.
    """

    def __init__(self, name: str, address: str, cable: str) -> None:
        self.name, self.address, self.cable = name, address, cable
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        *,
        hidden: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command in the namespace, in a process group of its own; its output goes to a file.

        Args:
            command: The command.
            log: Where its output goes.
            environment: Variables that it has beside this process's.
            hidden: A folder in which the command and all that it starts find nothing, and whose files nobody else sees.
        """
        if hidden is not None:  # `ip netns exec` has given the command mounts of its own
            hide = f'mount -t tmpfs none "{hidden}" && exec "$@"'
            command = ["sh", "-c", hide, "sh", *command]
        variables = (
            os.environ | {"GLOO_SOCKET_IFNAME": self.cable, "TP_SOCKET_IFNAME": self.cable} | dict(environment or {})
        )
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command],
                env=variables, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._started.append(process)
        return process

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Put this thread into the namespace for a while: sockets that it and threads that it starts open are there."""
        with Path("/proc/thread-self/ns/net").open() as before, Path("/run/netns", self.name).open() as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    def pids(self) -> list[int]:
        """Return the processes that run in the namespace."""
        return [int(pid) for pid in _ip("netns", "pids", self.name).split()]

    def power_off(self) -> None:
        """Cut the cable, so that nobody is told, and end every process at once."""
        _ip("-n", self.name, "link", "set", self.cable, "down")
        self.end_all()

    def end_all(self) -> None:
        """End every process of the namespace."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._started:
            process.wait(60)


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Give two machines that can reach one another; nothing of them is left afterwards.

    Skips the test where this process may not make namespaces.
    """
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    stem = f"rt{os.getpid() % 100000}"
    machines = tuple(
        Machine(f"{stem}{end}", f"10.77.0.{number}", f"{stem}{end}0") for number, end in ((1, "a"), (2, "b"))
    )
    first, second = machines
    try:
        try:
            for machine in machines:
                _ip("netns", "add", machine.name)
            _ip(
                "link",
                "add",
                first.cable,
                "netns",
                first.name,
                "type",
                "veth",
                "peer",
                "name",
                second.cable,
                "netns",
                second.name,
            )
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        for machine in machines:
            _ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", machine.cable)
            for interface in ("lo", machine.cable):
                _ip("-n", machine.name, "link", "set", interface, "up")
        yield first, second
    finally:
        for machine in machines:
            with contextlib.suppress(subprocess.CalledProcessError):
                machine.end_all()
                _ip("netns", "delete", machine.name)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout
