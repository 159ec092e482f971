"""Real processes that talk over gloo, for tests: started, watched against a clock, and never left behind."""

import multiprocessing
import os
import pickle
import signal
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait
from typing import Any

import tests.helpers.quick  # noqa: F401 - every rank writes as this process reads

# One server imports the heavy packages once; every rank is then a fork of it, without threads to inherit.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["lightning_interp", "tests.helpers.lightning"])


@dataclass(frozen=True)
class Outcome:
    """What one rank came to: a value, an error ``"Type: text"``, or neither if it was killed by ``signal``."""

    value: Any = None
    error: str | None = None
    signal: int | None = None
    seconds: float = 0.0


def run_ranks(fn, world, *args, timeout=60.0, stragglers=()):
    """Call ``fn(rank, world, *args)`` in ``world`` processes of one gloo group; their outcomes by rank.

    ``fn`` must be a function of a module. The processes, with any that they started, are killed when all have
    answered or ``timeout`` seconds are over. A rank in ``stragglers`` need not answer (it is stopped, say): its
    outcome is empty if it does not.
    """
    with tempfile.TemporaryDirectory() as folder:
        started, outcomes = {}, {}
        try:
            for rank in range(world):
                here, there = _processes.Pipe(duplex=False)
                process = _processes.Process(target=_rank, args=(fn, rank, world, folder, there, args))
                process.start()
                there.close()
                started[here] = (rank, process)
            deadline = time.monotonic() + timeout
            waiting = set(started)
            while {started[pipe][0] for pipe in waiting} - set(stragglers):
                ready = wait(waiting, max(0.0, deadline - time.monotonic()))
                if not ready:
                    missing = sorted(started[pipe][0] for pipe in waiting)
                    raise TimeoutError(f"ranks {missing} have not ended after {timeout} s; the others: {outcomes}")
                for pipe in ready:
                    rank, process = started[pipe]
                    outcomes[rank] = _received(pipe, process)
                    waiting.discard(pipe)
        finally:
            for pipe, (_, process) in started.items():
                _end(process)
                pipe.close()
    return [outcomes.get(rank, Outcome()) for rank in range(world)]


def values(outcomes):
    """The values of ranks none of which failed."""
    assert [outcome.error or outcome.signal for outcome in outcomes] == [None] * len(outcomes)
    return [outcome.value for outcome in outcomes]


def _received(pipe, process):
    try:
        return pickle.loads(pipe.recv_bytes())
    except EOFError:
        process.join(10)
        return Outcome(signal=-process.exitcode)


def _end(process):
    """Kill a rank and the group of processes that it leads."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # It may not have come to lead a group yet.
    process.kill()
    process.join()
    process.close()


def _rank(fn, rank, world, folder, pipe, args):
    os.setsid()
    # Loader processes are forked as they are outside of this helper, where a server would import everything anew.
    multiprocessing.set_start_method("fork", force=True)
    # What tells Lightning that the processes are there already.
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.FileStore(os.path.join(folder, "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=30))
    start = time.monotonic()
    try:
        outcome = Outcome(value=fn(rank, world, *args), seconds=time.monotonic() - start)
    except BaseException as error:
        outcome = Outcome(error=f"{type(error).__name__}: {error}", seconds=time.monotonic() - start)
    # As bytes: tensors would go through shared memory that ends with this process.
    pipe.send_bytes(pickle.dumps(outcome))
