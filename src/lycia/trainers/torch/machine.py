"""What local work takes from the machine: a device, threads, a precision, and generators that follow from a key."""

import random
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import numpy as np
import torch

from lycia.core.keys import Key
from lycia.errors import TrainingError

_ALONE = threading.RLock()  # torch's generators and its number of threads belong to the whole process


def device_of(name: str) -> torch.device:
    """The device that a setting names; "auto" is the first GPU where there is one.

    Raises: TrainingError, if it is not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise _missing(name, "it is not a device that PyTorch knows") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise _missing(name, f"PyTorch {torch.__version__} sees {count or 'no'} CUDA GPU{'s' * (count > 1)} here")
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise _missing(name, f"PyTorch {torch.__version__} sees no Apple GPU here")
    return device


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Inside, operations that bear it run in the narrower type; the parameters stay what they are.

    Raises: TrainingError, if the device does not have it.
    """
    if precision == "float32":
        return nullcontext()
    lacks = not torch.amp.is_autocast_available(device.type) or (
        device.type == "cuda" and precision == "bfloat16" and not torch.cuda.is_bf16_supported()
    )
    if lacks:
        raise TrainingError(
            f"precision={precision!r} is not to be had on the device {str(device)!r}.",
            why="mixed precision needs arithmetic in that type, and this device or this build of PyTorch lacks it.",
            do="use precision='float32', or 'float16' on an older GPU.",
        )
    narrower: AbstractContextManager[object] = torch.autocast(device.type, getattr(torch, precision))
    return narrower


@contextmanager
def alone(key: Key, threads: int, device: torch.device) -> Iterator[None]:
    """Inside, torch draws from `key` on so many threads, and no other thread of this process is inside.

    So do NumPy's and Python's global generators, for modules, losses and data are not ours. Afterwards all is as it was
    before.
    """
    seed = seed_of(key)
    with _ALONE, ExitStack() as after:
        after.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(threads)
        after.callback(torch.default_generator.set_state, torch.default_generator.get_state())
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            after.callback(torch.cuda.set_rng_state, torch.cuda.get_rng_state(device), device)
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            after.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
            torch.mps.manual_seed(seed)
        after.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002  # other code may draw from it
        np.random.seed(seed % 2**32)  # noqa: NPY002
        after.callback(random.setstate, random.getstate())
        random.seed(seed)
        after.enter_context(torch.enable_grad())
        yield


def seed_of(key: Key) -> int:
    """A seed that follows from the key; of 63 bits, which every generator takes."""
    return int.from_bytes(key.digest()[:8], "big") >> 1


def _missing(name: str, reason: str) -> TrainingError:
    return TrainingError(
        f"the device {name!r} is not here.",
        why=f"{reason}.",
        do="use TorchTrainer(device='auto'), which takes a GPU where there is one, or install the PyTorch for yours.",
    )
