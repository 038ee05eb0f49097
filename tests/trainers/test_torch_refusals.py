"""What TorchTrainer refuses, at once or as a node that declines, and what it says then."""

import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lycia import SGD, Adagrad, Adam, App, Evaluation, Everyone, FedAvg, FedProx, Plan, UniformMean, Yogi, simulate
from lycia.core.training import NodeData
from lycia.data import Examples
from lycia.errors import AppError, PlanError, TrainingError
from lycia.testing import digest_of
from lycia.trainers.torch import TorchTrainer
from tests.trainers.torch_modules import EACH, NUMBERS, SCHEMA, begin, examples, linear, network, normalised, task_of


@pytest.mark.parametrize(
    "settings",
    [
        {"build_model": nn.Linear(5, 3), "loss": None}, {"build_model": "Net"}, {"batch_size": 0}, {"epochs": 0},
        {"steps": 0}, {"clip_norm": 0.0}, {"accumulate": 0}, {"precision": "float8"}, {"threads": 0},
        {"schedule": 0.5}, {"metrics": {"loss": EACH}}, {"metrics": {"accuracy": 3}}, {"loop": 3},
    ],
)  # fmt: skip
def test_settings_that_cannot_train_are_refused(settings: dict[str, Any]):
    with pytest.raises(AppError, match="TorchTrainer"):
        TorchTrainer(**{"build_model": linear, "loss": EACH, **settings})


@pytest.mark.parametrize("optimizer", [Adam(), Yogi(), Adagrad(), Adam, SGD])
def test_a_rule_for_the_server_is_not_one_for_the_nodes(optimizer: Any):
    with pytest.raises(AppError, match="LocalAdam"):
        TorchTrainer(linear, EACH, optimizer=optimizer)


@pytest.mark.parametrize("optimizer", ["adam", 0.1, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)])
def test_an_optimizer_is_a_rule_or_a_function(optimizer: Any):
    with pytest.raises(AppError, match=r"lambda params: torch\.optim"):
        TorchTrainer(linear, EACH, optimizer=optimizer)


@pytest.mark.parametrize("settings", [{"clip_norm": 1.0}, {"accumulate": 2}, {"precision": "bfloat16"}])
def test_a_loop_of_ones_own_takes_no_settings_that_it_would_not_see(settings: dict[str, Any]):
    with pytest.raises(AppError, match=next(iter(settings))):
        TorchTrainer(linear, EACH, loop=print, **settings)


def test_a_loop_of_ones_own_takes_no_client_rule_that_adds_to_its_steps():
    with pytest.raises(PlanError, match="FedProx"):
        App(
            trainer=TorchTrainer(linear, EACH, loop=print),
            plan=Plan(rounds=1, selector=Everyone(), client=FedProx(0.1), aggregator=UniformMean(), server=SGD()),
        )


# ------------------------------------------------------------------------------------------------------------- the data


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (Examples(np.zeros((4, 5)), np.array([0, 1, 2, 7])), "1 of 4 examples have a label that is not in"),
        (Examples(np.zeros((4, 6)), np.zeros(4, int)), "module Linear cannot take inputs of shape (4, 6) (float32)"),
        (Examples(np.zeros((4, 5), int), np.zeros(4, int)), "cannot take inputs of shape (4, 5) (int64)"),
        (Examples(np.zeros((0, 5)), np.zeros(0)), "there are no examples"),
        (Examples(np.zeros((2, 5)), np.zeros(3)), "labels of shape (3,)"),
        (Examples(np.full((2, 5), "x"), np.zeros(2)), "type <U1"),
        ([], "there are no examples"),
        (TensorDataset(torch.zeros(0, 5), torch.zeros(0)), "there are no examples"),
        (np.zeros((4, 5)), "the data is a ndarray"),
        ({"x": 1}, "the data is a dict"),
        (3, "the data is a int"),
        (DataLoader(TensorDataset(torch.zeros(4, 5), torch.zeros(4))), "the data is a DataLoader"),
        (TensorDataset(torch.zeros(4, 5)), "the items of the TensorDataset are not pairs: 1"),
        ([torch.zeros(5)], "are not pairs: Tensor"),
        ([(torch.zeros(5), 0), (torch.zeros(6), 0)], "items of the list cannot be put together"),
        ([(torch.zeros(5), 0), (torch.zeros(5), None)], "items of the list cannot be put together"),
        ([(torch.zeros(5), "b")], "the loss cannot take outputs of shape (1, 3) (float32) with targets of type list"),
        (TensorDataset(torch.zeros(4, 5), torch.zeros(4, 9)), "the loss cannot take outputs of shape (4, 3)"),
        (TensorDataset(torch.zeros(4, 5), torch.tensor([0, 1, 2, 9])), "the loss cannot take outputs of shape (4, 3)"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_data_that_does_not_fit_is_refused_with_what_it_is(data: Any, what: str):
    trainer = TorchTrainer(linear, EACH)
    task = task_of(trainer)
    for refuse in (
        lambda: trainer.train(replace(task, data=data)),
        lambda: trainer.evaluate(task.layout, task.model, data),
    ):
        with pytest.raises(TrainingError, match=re.escape(what)) as failure:
            refuse()
        assert failure.value.why
        assert failure.value.do
    assert trainer.train(task).steps == 2


def test_a_label_that_is_refused_is_not_told_to_the_coordinator():
    trainer = TorchTrainer(linear, EACH)
    with pytest.raises(TrainingError) as failure:
        trainer.train(task_of(trainer, TensorDataset(torch.zeros(4, 5), torch.tensor([0, 1, 2, 987]))))
    assert "987" not in failure.value.what  # which is all that a declining node says


def test_labels_that_are_text_need_a_label_set():
    trainer = TorchTrainer(linear, EACH)
    with pytest.raises(TrainingError, match="no label set"):
        trainer.train(task_of(trainer, Examples(np.zeros((2, 5)), np.array(["a", "b"])), schema=NUMBERS))


def test_a_single_example_cannot_be_normalised():
    trainer = TorchTrainer(normalised, EACH)
    with pytest.raises(TrainingError, match=r"cannot take inputs of shape \(1, 5\)"):
        trainer.train(task_of(trainer, examples(1)))


# ------------------------------------------------------------------------------------------ outputs, losses and metrics


class Pair(nn.Module):
    """Gives more than scores."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.layer(rows)}


@pytest.mark.parametrize(
    ("build", "loss", "what"),
    [
        (Pair, EACH, "the module gave a dict instead of a tensor"),
        (linear, lambda out, _: out, "the loss gave shape (8, 3) (float32) for a batch of 8 examples"),
        (linear, lambda out, _: out[:5, 0], "the loss gave shape (5,) (float32) for a batch of 8 examples"),
        (linear, lambda *_: 1.0, "the loss gave type float"),
        (linear, lambda out, t: (out[:, :1] - t) ** 2, "the loss gave shape (8, 8)"),
        (linear, lambda out, _: out.detach().mean(), "the loss cannot be traced back to the parameters"),
        (lambda: nn.Linear(4, 3), EACH, "the module Linear cannot take inputs of shape (8, 5) (float32)"),
        (lambda: nn.Embedding(3, 3), EACH, "the module Embedding cannot take"),
    ],
)  # fmt: skip
def test_a_module_and_a_loss_that_do_not_fit_are_told_apart(build: Any, loss: Any, what: str):
    trainer = TorchTrainer(build, loss, batch_size=8)
    with pytest.raises(TrainingError, match=re.escape(what)) as failure:
        trainer.train(task_of(trainer))
    assert failure.value.do


def test_a_mistake_in_the_users_code_keeps_its_traceback():
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.no_such_thing(targets)

    trainer = TorchTrainer(linear, loss)
    with pytest.raises(AttributeError, match="no_such_thing"):
        trainer.train(task_of(trainer))


def test_a_metric_of_a_wrong_shape_is_refused():
    trainer = TorchTrainer(linear, EACH, metrics={"odd": lambda outputs, _: outputs[:2, 0]})
    with pytest.raises(TrainingError, match=r"the metric 'odd' gave values of shape \(2,\)"):
        trainer.evaluate(*begin(trainer), examples())


def test_a_function_that_makes_no_optimizer_is_refused():
    trainer = TorchTrainer(linear, EACH, optimizer=list)
    with pytest.raises(TrainingError, match="the optimizer's factory gave a list"):
        trainer.train(task_of(trainer))


def test_a_loop_that_returns_something_else_is_refused():
    trainer = TorchTrainer(linear, EACH, loop=lambda *_: 3)
    with pytest.raises(TrainingError, match="the training function returned a int"):
        trainer.train(task_of(trainer))


# -------------------------------------------------------------------------------------------- a loss that is not finite


def test_a_loss_that_is_not_finite_names_its_step():
    trainer = TorchTrainer(network, EACH, optimizer=SGD(1e38), batch_size=8, epochs=50)
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step [23] of 250"):
        trainer.train(task_of(trainer))


def test_a_node_whose_loss_is_not_finite_declines_and_harms_nobody():
    bad = examples(20, seed=5)
    bad.features[3] = np.nan
    good = {f"node {n}": NodeData(examples(20, seed=n), examples(9, seed=n)) for n in range(3)}
    plan = Plan(
        rounds=2, selector=Everyone(), client=FedAvg(), aggregator=UniformMean(), server=SGD(),
        evaluation=Evaluation(every=2),
    )  # fmt: skip
    app = App(
        trainer=TorchTrainer(network, EACH),
        plan=plan,
        population={**good, "bad": NodeData(bad, good["node 0"].held_out)},
    )
    result = simulate(replace(app, schema=None, trainer=TorchTrainer(network, by_code)))
    assert result.state == "finished"
    assert all(record["survivors"] == sorted(good) for record in result.records)
    drops = [drop for record in result.records for drop in record["dropped"]]
    assert {(drop["node"], drop["kind"]) for drop in drops} == {("bad", "declined")}
    assert {drop["reason"] for drop in drops} == {"the loss is nan at step 1 of 1."}
    assert np.isfinite(result.model.trained).all()
    alone = simulate(replace(app, schema=None, trainer=TorchTrainer(network, by_code), population=good))
    assert alone.digest == result.digest


def by_code(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """For targets that came as numbers, without a label set."""
    return EACH(outputs, targets.long())


# ---------------------------------------------------------------------------------------------------------- the machine


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "cuda:x"])
def test_a_device_that_is_not_here_is_named(device: str):
    if {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.get(device):
        pytest.skip("it is here")
    trainer = TorchTrainer(linear, EACH, device=device)
    task = task_of(trainer)  # the first model can be made anywhere
    for refuse in (lambda: trainer.train(task), lambda: trainer.evaluate(task.layout, task.model, task.data)):
        with pytest.raises(TrainingError, match=f"the device '{device}' is not here"):
            refuse()


def test_any_device_will_do_where_the_trainer_may_choose():
    trainer = TorchTrainer(linear, EACH, device="auto")
    assert trainer.train(task_of(trainer)).steps == 2


def test_a_precision_that_the_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda _: False)
    trainer = TorchTrainer(linear, EACH, precision="bfloat16")
    with pytest.raises(TrainingError, match="precision='bfloat16' is not to be had on the device 'cpu'"):
        trainer.train(task_of(trainer))


@pytest.mark.parametrize("package", ["torch", "lightning"])
def test_without_the_framework_a_trainer_says_what_to_install(package: str):
    trainer = {"torch": "TorchTrainer(print, print)", "lightning": "LightningTrainer(print)"}[package]
    program = f"""
import sys
sys.modules["{package}"] = None
from lycia.errors import TrainingError
from lycia.trainers.torch import LightningTrainer, TorchTrainer
try:
    {trainer}
except TrainingError as error:
    print(error.what, error.do)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert f"{package} is not installed" in done.stdout
    assert f"pip install 'lycia[{package}]'" in done.stdout


def test_pytorch_is_not_imported_before_it_is_used():
    program = "import sys, lycia.trainers.torch, lycia.trainers.checkpoints; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_equal_trainers_with_other_losses_differ():
    each = TorchTrainer(linear, partial(EACH))
    assert each != replace(each, loss=EACH)
    assert digest_of(each.train(task_of(each)).model) == digest_of(replace(each, loss=EACH).train(task_of(each)).model)
    assert SCHEMA.labels == (0, 1, 2)


def test_a_module_in_the_place_of_what_builds_one_is_refused():
    with pytest.raises(AppError, match="takes a function that makes one"):
        TorchTrainer(nn.Linear(5, 3), EACH)


@pytest.mark.parametrize("device", ["gpu", "quantum", "meta", ""])
def test_what_is_no_device_at_all_is_refused_at_once(device: str):
    with pytest.raises(AppError, match="device"):
        TorchTrainer(linear, EACH, device=device)


@pytest.mark.parametrize("settings", [{"batch_size": "3"}, {"epochs": 1.5}, {"steps": 2.5}, {"threads": None}])
def test_a_count_is_a_whole_number(settings: dict[str, Any]):
    with pytest.raises(AppError, match=next(iter(settings))):
        TorchTrainer(linear, EACH, **settings)
