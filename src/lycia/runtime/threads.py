"""How many threads local training uses: one, so that it gives the same bits wherever it runs."""

from contextlib import AbstractContextManager

from threadpoolctl import threadpool_limits


def one_thread() -> AbstractContextManager[object]:
    """Inside, the linear algebra of NumPy and of what builds on it runs on one thread: sums have one order."""
    limits: AbstractContextManager[object] = threadpool_limits(1)
    return limits
