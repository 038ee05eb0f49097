"""The idx format, in which MNIST and its relatives are published."""

import math

import numpy as np

_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def idx_array(content: bytes) -> np.ndarray:
    """The array that an idx file holds, unzipped; it cannot be written to.

    Raises: ValueError, if it is no such file, or not a whole one.
    Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", section "File formats".
    Example:
      >>> idx_array(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9])).tolist()
      [7, 8, 9]
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise ValueError("it does not begin as an idx file does")
    kind, header = np.dtype(_TYPES[content[2]]), 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:header], ">u4").tolist())
    if len(shape) != content[3] or len(content) != header + kind.itemsize * math.prod(shape):
        raise ValueError(f"an idx file of shape {shape} does not have {len(content)} bytes")
    return np.frombuffer(content, kind, offset=header).reshape(shape)
