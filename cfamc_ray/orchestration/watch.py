"""Whether Ray is still there: where its own processes die, it says nothing for a minute and then ends the command."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import ray

from cfamc_ray.config.errors import InputError
from cfamc_ray.host.process import end_now

REACH_SECONDS = 5.0
"""Until an address counts as silent."""
LOOK_SECONDS = 0.5
"""Between two looks at Ray's processes."""
NEEDED = {"gcs_server", "raylet"}
"""Processes without which nothing goes on."""
MISSED = 3
"""Looks in a row in which a cluster's head does not answer before it counts as lost."""


def check_reachable(address: str) -> None:
    """Refuse at once an address where nothing listens; Ray itself would try for minutes.

    Raises:
        InputError: where it is not HOST:PORT, or nothing answers there within some seconds.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise InputError(f"--address {address}: write auto, or HOST:PORT as `ray start --head` prints it")
    if why := _silence(address):
        raise InputError(f"--address {address}: no Ray cluster answers there ({why})")


def _silence(address: str) -> str:
    """Why nothing answers at HOST:PORT; empty where something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        return str(error)
    return ""


@contextmanager
def watched_ray(address: str | None, person: TextIO) -> Iterator[None]:
    """Ray, which was started before; it is shut down at the end.

    Where it is lost the process ends at once, after what `before_end` was given: every call to what is left of Ray,
    destructors among them, waits for a minute, and then Ray ends the process itself.

    Args:
        address: of a running cluster; None where Ray was started by this process.
        person: where its loss is told.
    """
    over, head = threading.Event(), ray.get_runtime_context().gcs_address

    def look() -> None:
        missed = 0
        while not over.wait(LOOK_SECONDS):
            dead = _dead_processes() if address is None else ""
            missed = missed + 1 if address is not None and _silence(head) else 0
            if dead or missed == MISSED:
                what = f"Ray's {dead} has ended" if dead else f"The Ray cluster at {head} answers no more"
                print(f"\n{what}; what Ray said is in ray.log. No finished epoch is lost.", file=person)
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
    """Names of the processes that Ray started here and that are no more."""
    node = ray._private.worker._global_node
    dead = node.dead_processes() if node is not None else []
    return " and ".join(sorted(NEEDED & {name for name, _ in dead}))


def _end_processes() -> None:
    """End those that Ray started here."""
    if node := ray._private.worker._global_node:
        node.kill_all_processes(check_alive=False, allow_graceful=False)
