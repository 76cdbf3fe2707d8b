"""Ray for the duration of a study: started, or an existing connection, with its output in the study's ray.log."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import ray

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.resources import ResourceConfig
from cfamc_ray.host.machine import cores
from cfamc_ray.host.process import heed_signals, is_command, logging_to, signals_restored
from cfamc_ray.orchestration.growing import require
from cfamc_ray.orchestration.last_words import last_words
from cfamc_ray.orchestration.view import output_to
from cfamc_ray.orchestration.watch import check_reachable, watched_ray
from cfamc_ray.store.environment import write_environment
from cfamc_ray.store.layout import RAY_LOG

logger = logging.getLogger(__name__)

LONGEST_FOLDER = 107 - len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
"""Largest number of bytes of the path of Ray's folder, so that its longest socket has a valid path."""
QUOTES = "'\"\\"


@contextmanager
def running_ray(resources: ResourceConfig, folder: Path, address: str | None) -> Iterator[TextIO]:
    """Run Ray with its output in the folder's ray.log; yield a stream that the person sees.

    In a command, all output of the process goes there, and the process ends if Ray is lost. Any other process keeps its
    streams and signal handlers, and a Ray that it has started itself keeps running.

    Args:
        resources: required resources.
        folder: folder of the study.
        address: address of a running Ray cluster; None for the cluster to which this process is connected, or else to
            start Ray on this machine.

    Raises:
        InputError: if the cluster cannot be reached or is too small, or the process is connected to another cluster.
    """
    log = folder / RAY_LOG
    if is_command():
        with output_to(log) as person, last_words(person, log):
            _start_ray(address)
            with watched_ray(address, person):
                _prepare(
                    resources, folder, address, cluster=address is not None, say=partial(print, file=person, flush=True)
                )
                yield person
        return
    lent = ray.is_initialized()
    with signals_restored(), logging_to(logging.FileHandler(log, encoding="utf-8"), name="ray"):
        if lent:
            _check_lent(address)
        else:
            _start_ray(address)
        try:
            _prepare(resources, folder, address, cluster=lent or address is not None, say=logger.warning)
            yield sys.stdout
        finally:
            if not lent:
                ray.shutdown()


def _prepare(
    resources: ResourceConfig, folder: Path, address: str | None, *, cluster: bool, say: Callable[[str], object]
) -> None:
    require(resources, cluster=cluster, say=say)
    write_environment(folder, **_cluster(address))


def _check_lent(address: str | None) -> None:
    """Refuse another cluster than the one to which this process is connected."""
    connected = ray.get_runtime_context().gcs_address
    if address not in (None, "auto", connected):
        raise InputError(
            f"address {address}: this process is connected to Ray at {connected}; leave the address out to use that, "
            "or call ray.shutdown() first"
        )


def _start_ray(address: str | None) -> None:
    if address not in (None, "auto"):
        check_reachable(str(address))
    alone = {"include_dashboard": False, "num_cpus": cores(), "_temp_dir": _ray_folder()} if address is None else {}
    try:
        ray.init(
            address=address or "local",  # with None, Ray would join any cluster on this machine
            log_to_driver=False,
            runtime_env={"env_vars": _passed_on()},
            **alone,
        )
    except SystemExit:  # Ray's answer to SIGTERM while it starts
        heed_signals()
        signal.raise_signal(signal.SIGTERM)
    except Exception as error:
        ray.shutdown()
        why = " ".join(str(error).split()) or type(error).__name__
        if address is not None:
            raise InputError(
                f"--address {address}: no Ray cluster answers there ({why}); where one asks for a token, "
                "RAY_AUTH_MODE=token sends it"
            ) from None
        raise InputError(
            f"Ray cannot start on this machine ({why}): it needs room in {_ray_folder()} (another folder: RAY_TMPDIR) "
            "and in /dev/shm, and a port to listen at"
        ) from None
    heed_signals()


def _passed_on() -> dict[str, str]:
    """Environment variables that processes on other machines need, too; Ray's callback itself passes the API key."""
    return {
        name: value
        for name, value in os.environ.items()
        if name == "CFAMC_DATA" or (name.startswith("WANDB_") and name != "WANDB_API_KEY")
    }


def _ray_folder() -> str:
    """The folder of Ray's sockets and logs; not every TMPDIR is suitable.

    A socket's path must not exceed 107 bytes, and Ray accepts only ASCII without quotes.
    """
    wanted = str(Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray").absolute())  # noqa: S108
    fits = len(wanted) <= LONGEST_FOLDER and wanted.isascii() and not {*wanted} & {*QUOTES}
    return wanted if fits else f"/tmp/ray-{os.getuid()}"  # noqa: S108


def _cluster(address: str | None) -> dict[str, Any]:
    resources = {name: amount for name, amount in ray.cluster_resources().items() if ":" not in name}
    return {"ray cluster": address or "of this machine", "resources": resources}
