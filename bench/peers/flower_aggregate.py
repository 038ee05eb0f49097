"""The process that memory.py watches for Flower: its server's FedAvg over the same updates. Runs in Flower's Python.

Flower's server has every reply in memory before it aggregates, so reading them in belongs to what is measured; the time
is that of `aggregate_arrayrecords` alone.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords


def main(manifest: Path, count: int) -> None:
    """Wait for the word, read the replies, aggregate them, and say how long the latter took."""
    told = json.loads(manifest.read_text())
    print("ready", flush=True)
    sys.stdin.readline()
    records = []
    for item in told["updates"][:count]:
        arrays = read_tensors(Path(told["blobs"]) / item["handle"][:2] / item["handle"][2:])
        reply = {name: Array(array) for name, array in arrays.items()}
        records.append(RecordDict({"arrays": ArrayRecord(reply), "metrics": MetricRecord({"num-examples": 1})}))
    began = time.perf_counter()
    aggregate_arrayrecords(records, "num-examples")
    print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a safetensors file, mapped."""
    content = np.memmap(path, np.uint8, "r")
    length = int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8 : 8 + length].tobytes())
    places = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {
        name: content[8 + length + begin : 8 + length + end].view(np.float32) for name, (begin, end) in places.items()
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
