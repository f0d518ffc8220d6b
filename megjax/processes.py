"""Several processes as one program, on JAX's own runtime (`jax.distributed`).

Every process runs the same script and process 0 alone writes. An error in one of them
ends all, each with the reason; else the others would wait for it in a collective.
"""

import atexit
import contextlib
import os
import sys
import threading
import time
from typing import NoReturn

import jax

# The key-value store of the runtime has no public name.
from jax._src import distributed

HEARTBEAT_TIMEOUT = 100
_START_TIMEOUT = 300
# One that is done waits for the others; heartbeats tell when that is in vain.
_SHUTDOWN_TIMEOUT = 10**7
_FAILURE, _LEFT = "megjax/failure", "megjax/left"
_POLL_SECONDS, _GRACE_SECONDS = 0.5, 20.0
_failing = threading.Event()


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_timeout: int = HEARTBEAT_TIMEOUT,
    start_timeout: int = _START_TIMEOUT,
    preemptible: bool = False,
) -> None:
    """Joins this process to the others, before anything touches a device.

    coordinator: HOST:PORT of process 0. None, as the two numbers then are: the cluster
        (TPU, SLURM, Open MPI, Kubernetes) knows.
    heartbeat_timeout: seconds of silence after which a process counts as dead; the
        runtime then ends the others.
    start_timeout: seconds to wait until all have started.
    preemptible: SIGTERM is left to `jax.experimental.multihost_utils.
        reached_preemption_sync_point`; else it ends the process.

    Raises ValueError where the settings do not fit each other or no cluster is found.
    """
    _check(coordinator, num_processes, process_id, heartbeat_timeout, start_timeout)
    jax.config.update("jax_enable_preemption_service", preemptible)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=heartbeat_timeout,
            initialization_timeout=start_timeout,
            shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
        )
    except ValueError as error:
        raise ValueError(
            f"no cluster found ({error}): give --coordinator, --num_processes and "
            "--process_id, or start the processes by srun, mpirun or on TPU hosts"
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f"the processes did not all join in {start_timeout} s ({str(error)[:200]}): "
            "start them all, check that the address of process 0 can be reached and "
            "that every process has another --process_id"
        ) from error
    stopped = threading.Event()
    listener = threading.Thread(target=_listen, args=(stopped,), daemon=True)
    listener.start()

    # Runs before the runtime shuts down, which registered itself earlier.
    @atexit.register
    def stop():
        stopped.set()
        listener.join()


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return distributed.global_state.process_id == 0


def fail(reason: str) -> None:
    """Ends all processes with status 1, the others after they have told the reason.

    Returns where there is one process only.
    """
    client = distributed.global_state.client
    if client is None:
        return
    _failing.set()
    own = distributed.global_state.process_id
    # Another may have failed before.
    with contextlib.suppress(Exception):
        client.key_value_set(_FAILURE, f"{own} {reason}")
    # Until all listeners have looked: connections close with this process, and what
    # follows from that elsewhere is not the reason.
    time.sleep(2 * _POLL_SECONDS)
    _leave(client, own)


def _check(coordinator, num_processes, process_id, *timeouts) -> None:
    given = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    words = " ".join(f"{k}={v}" for k, v in given.items() if v is not None)
    if words and None in given.values():
        raise ValueError(
            f"{words}: give --coordinator, --num_processes and --process_id together, "
            "or only --distributed where a cluster knows them"
        )
    if words:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError(
                f"--coordinator={coordinator}: give HOST:PORT of process 0"
            )
        if not 0 <= process_id < num_processes:
            raise ValueError(
                f"{words}: processes are numbered 0 to --num_processes - 1"
            )
    if min(timeouts) < 1:
        raise ValueError("--heartbeat_timeout and --start_timeout: give at least 1 s")


def heed() -> None:
    """Ends this process with the reason where another has failed; else returns."""
    state = distributed.global_state
    try:
        words = state.client.key_value_try_get(_FAILURE)
    # Nothing there; or the runtime is gone, and ends this process by itself.
    except Exception:  # noqa: BLE001
        return
    failed, _, reason = words.partition(" ")
    if int(failed) != state.process_id:
        print(f"error: process {failed} ended: {reason}", file=sys.stderr)
        _leave(state.client, state.process_id)


def _listen(stopped: threading.Event) -> None:
    while not stopped.wait(_POLL_SECONDS) and not _failing.is_set():
        heed()


def _leave(client, process_id: int) -> NoReturn:
    """Ends without waiting for the others; the main process goes last.

    The runtime's store is in it: without that the others are aborted.
    """
    with contextlib.suppress(Exception):
        client.key_value_set(f"{_LEFT}/{process_id}", "")
    if is_main():
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in range(1, distributed.global_state.num_processes):
            left = max(1, int(1000 * (deadline - time.monotonic())))
            # One that is dead or stuck is left to the heartbeat.
            with contextlib.suppress(Exception):
                client.blocking_key_value_get(f"{_LEFT}/{process}", left)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
