"""`join`: makes this process one of several that train as one."""

from __future__ import annotations

import jax

from schemas import UsageError


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Connects the processes; must come before any device is looked at.

    Args:
        coordinator: HOST:PORT where process 0 listens.
        processes: how many there are.
        process: which this one is, from 0.
        All None: JAX finds them out where it can, as on a slice of TPUs and under Slurm.

    Raises:
        UsageError: if only some are given, or the processes do not find each other.
    """
    given = (coordinator, processes, process)
    if None in given and given != (None, None, None):
        raise UsageError("--coordinator, --processes and --process belong together; give all three")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise UsageError(f"--process is {process}, wanted 0..{processes - 1}")
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (ValueError, RuntimeError) as e:
        raise UsageError(
            f"the processes do not find each other ({str(e).splitlines()[0]}); wanted --coordinator"
            " HOST:PORT, --processes and --process"
        ) from e
