"""Watch Ray: if its own processes die, it is silent for a minute and then ends the command."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import ray

from cfamc_ray.config.errors import InputError
from cfamc_ray.host.process import end_now

REACH_SECONDS = 5.0
"""Seconds until an address counts as unreachable."""
LOOK_SECONDS = 0.5
"""Seconds between two checks of Ray's processes."""
NEEDED = {"gcs_server", "raylet"}
"""Processes that Ray needs."""
MISSED = 3
"""Number of failed checks in a row after which a cluster's head counts as lost."""


def check_reachable(address: str) -> None:
    """Refuse an address where nothing listens immediately; Ray itself would try for minutes.

    Raises:
        InputError: if it is not HOST:PORT, or nothing answers within `REACH_SECONDS`.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise InputError(f"--address {address}: write auto, or HOST:PORT as `ray start --head` prints it")
    if why := _silence(address):
        raise InputError(f"--address {address}: no Ray cluster answers there ({why})")


def _silence(address: str) -> str:
    """Reason why nothing answers at HOST:PORT; empty if something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        return str(error)
    return ""


@contextmanager
def watched_ray(address: str | None, person: TextIO) -> Iterator[None]:
    """Watch a running Ray, and shut it down at the end.

    If Ray is lost, the process ends immediately, after the actions of `before_end`: every further call to Ray,
    including destructors, would wait for a minute, and then Ray would end the process.

    Args:
        address: address of a running cluster; None if this process started Ray.
        person: stream for a message about the loss.
    """
    over, head = threading.Event(), ray.get_runtime_context().gcs_address

    def look() -> None:
        missed = 0
        while not over.wait(LOOK_SECONDS):
            dead = _dead_processes() if address is None else ""
            missed = missed + 1 if address is not None and _silence(head) else 0
            if dead or missed == MISSED:
                what = f"Ray's {dead} died" if dead else f"The Ray cluster at {head} no longer answers"
                print(f"\n{what}; Ray's output is in ray.log. No finished epoch is lost.", file=person)
                print("Re-run the command with --resume to resume.", file=person, flush=True)
                _end_processes()
                end_now(1)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        ray.shutdown()


def _dead_processes() -> str:
    """Names of the processes that Ray started here and that have ended."""
    node = ray._private.worker._global_node
    dead = node.dead_processes() if node is not None else []
    return " and ".join(sorted(NEEDED & {name for name, _ in dead}))


def _end_processes() -> None:
    """End the processes that Ray started here."""
    if node := ray._private.worker._global_node:
        node.kill_all_processes(check_alive=False, allow_graceful=False)
