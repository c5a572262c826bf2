"""An existing Ray cluster in the place of local processes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

import torch

from vlaq_ros.errors import ClusterError


class RayExecutor(Executor):
    """Runs calls as Ray tasks of one core each. Its machines have this package, and see the same files by same names.

    Args:
        address: of the cluster, as `ray start` printed it, or "local" for one of this machine alone.

    Raises:
        ClusterError: nothing answers there.
    """

    def __init__(self, address: str) -> None:
        import ray  # noqa: PLC0415 - an optional extra

        self._ray: Any = ray
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ClusterError(address, " ".join(str(error).split())) from None
        self._run = ray.remote(num_cpus=1)(_call)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Send a call; what it raises is raised again by the future's result."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._run.remote(fn, args, kwargs).future().add_done_callback(partial(_pass_on, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster, which ends what still runs for this process."""
        del wait, cancel_futures
        self._ray.shutdown()


def _call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    torch.set_num_threads(1)
    return fn(*args, **kwargs)


def _pass_on(future: Future[Any], done: Future[Any]) -> None:
    error = done.exception()
    if error is None:
        future.set_result(done.result())
    else:  # Ray's own has the other machine's traceback for its text
        future.set_exception(getattr(error, "cause", None) or error)
