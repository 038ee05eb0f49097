"""FLamby's benchmark Fed-Heart-Disease, as its authors set it up: four hospitals, logistic regression, FedAvg.

    lycia simulate examples/flamby_heart_disease.py
    python examples/flamby_heart_disease.py            # five seeds, beside the published figure

Source: Ogier du Terrail et al. 2022, "FLamby", arXiv:2210.04620; the features, the split and the settings are theirs.
"""

from functools import partial
from statistics import mean, stdev
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lycia import SGD, App, Evaluation, Everyone, ExampleWeightedMean, FedAvg, Plan, TorchTrainer, simulate
from lycia.data.datasets import HEART_DISEASE_FLAMBY, heart_disease_flamby

PUBLISHED = 0.698, 0.020  # FedAvg, over five seeds


def losses(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(outputs[:, 0], labels.float(), reduction="none")


app = App(
    name="flamby-heart-disease",
    trainer=TorchTrainer(partial(nn.Linear, 13, 1), losses, optimizer=SGD(0.001), batch_size=4, steps=100),
    plan=Plan(
        rounds=15, selector=Everyone(), client=FedAvg(), aggregator=ExampleWeightedMean(), server=SGD(),
        evaluation=Evaluation(every=15),
    ),
    population=heart_disease_flamby,
    schema=HEART_DISEASE_FLAMBY,
)  # fmt: skip


def hospital_mean(record: dict[str, Any]) -> float:
    """FLamby's figure: the plain mean of the hospitals' accuracies."""
    return mean(figures["accuracy"] for figures in record["evaluation"]["evaluate"]["nodes"].values())


if __name__ == "__main__":
    found = [hospital_mean(simulate(app, seed=seed).records[-1]) for seed in range(5)]
    print("accuracy by seed:", *(f"{figure:.3f}" for figure in found))
    print(f"mean {mean(found):.3f} ± {stdev(found):.3f}; published {PUBLISHED[0]:.3f} ± {PUBLISHED[1]:.3f}")
