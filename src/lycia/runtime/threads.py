"""How many threads local training uses: one, so that it gives the same bits wherever it runs."""

import sys
from contextlib import AbstractContextManager
from functools import lru_cache

from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[object]:
    """Inside, the linear algebra of NumPy and of what builds on it runs on one thread: sums have one order."""
    limits: AbstractContextManager[object] = _controller(len(sys.modules)).limit(limits=1)
    return limits


@lru_cache(1)
def _controller(_modules: int) -> ThreadpoolController:
    # Looking for libraries takes longer than a small training, so it is done again only when modules were loaded since.
    return ThreadpoolController()
