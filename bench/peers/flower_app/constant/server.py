"""What the server does: FedAvg over all nodes, nothing evaluated; it writes down when each round has ended."""

import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

NODES = 4
app = ServerApp()


class Timed(FedAvg):
    """FedAvg that notes the time of every aggregation."""

    def __init__(self, times: Path) -> None:
        super().__init__(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=NODES, min_available_nodes=NODES)
        self._times = times

    def aggregate_train(self, server_round, replies):
        """The mean, as FedAvg takes it."""
        outcome = super().aggregate_train(server_round, replies)
        with self._times.open("a") as file:
            file.write(f"{time.time()}\n")
        return outcome


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Hold the rounds."""
    config = context.run_config
    arrays = ArrayRecord([np.zeros(int(config["floats"]), np.float32)])
    Timed(Path(config["times"])).start(grid=grid, initial_arrays=arrays, num_rounds=int(config["num-server-rounds"]))
