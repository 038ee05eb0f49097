"""LightningTrainer: the user's LightningModule is trained by Lightning itself, and leaves nothing behind."""

import logging
import signal
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lycia import SGD, App, Evaluation, Everyone, ExampleWeightedMean, FedAvg, FedProx, Plan, simulate
from lycia.core.training import NodeData
from lycia.data import Examples
from lycia.errors import AppError, PlanError, TrainingError
from lycia.testing import check_trainer, digest_of
from lycia.trainers.torch import LightningTrainer, TorchTrainer
from tests.trainers.torch_modules import EACH, SCHEMA, begin, examples, normalised, task_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning: Any = pytest.importorskip("lightning.pytorch")


class Classifier(lightning.LightningModule):  # type: ignore[misc]
    """As users of Lightning write it."""

    def __init__(self, rate: float = 0.05) -> None:
        super().__init__()
        self.net, self.rate = normalised(), rate

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.net(rows)

    def training_step(self, batch: list[torch.Tensor], _place: int) -> torch.Tensor:
        rows, targets = batch
        loss = nn.functional.cross_entropy(self(rows), targets)
        self.log("train_loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: list[torch.Tensor], _place: int) -> None:
        rows, targets = batch
        self.log("accuracy", (self(rows).argmax(dim=1) == targets).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


def test_it_keeps_its_contract():
    check_trainer(LightningTrainer(Classifier, batch_size=8), NodeData(examples(40), examples(30, seed=1)), SCHEMA)


def test_lightning_trains_the_module_and_says_what_it_logged(capfd: pytest.CaptureFixture[str]):
    trainer = LightningTrainer(Classifier, batch_size=8, epochs=5, frozen=("net.4.bias",), local="net.0.*")
    task = task_of(trainer)
    levels = logging.getLogger("lightning.pytorch").level
    result = trainer.train(task)
    assert (result.steps, result.weight, result.learning_rate) == (25, 40.0, 0.05)
    assert set(result.metrics) == {"train_loss"}
    assert (result.model.trained != task.model.trained).all()
    assert (result.model.local != task.model.local).any()
    assert (result.model.statistics != task.model.statistics).any()
    assert result.model.frozen is task.model.frozen
    count, after = trainer.evaluate(task.layout, result.model, task.data)
    _, before = trainer.evaluate(task.layout, task.model, task.data)
    assert count == 40
    assert set(after) == {"accuracy"}
    assert after["accuracy"] > before["accuracy"]
    assert logging.getLogger("lightning.pytorch").level == levels
    said = capfd.readouterr()
    assert said.out + said.err == ""


def test_equal_tasks_give_equal_bits_whatever_was_drawn_before():
    trainer = LightningTrainer(Classifier, batch_size=8)
    task = task_of(trainer)
    first = digest_of(trainer.train(task).model)
    torch.rand(7)
    assert digest_of(trainer.train(task).model) == first
    assert digest_of(trainer.train(task_of(trainer, seed=3)).model) != first


def test_steps_and_settings_reach_lightning():
    trainer = LightningTrainer(
        lambda: Classifier(rate=1.0), batch_size=8, steps=7,
        settings={"gradient_clip_val": 1e-4, "accumulate_grad_batches": 1},
    )  # fmt: skip
    task = task_of(trainer)
    result = trainer.train(task)
    assert result.steps == 7
    assert np.linalg.norm(result.model.trained - task.model.trained) < 7 * 1e-4 * 10


def test_it_takes_the_same_steps_as_our_own_loop():
    class Same(Classifier):
        def __init__(self) -> None:
            super().__init__(rate=0.1)
            self.net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))

    # Given 41 examples, of which a last single one joins the batch before it
    ours = TorchTrainer(Same, EACH, optimizer=SGD(0.1, momentum=0.9), batch_size=8, epochs=3)
    theirs = LightningTrainer(Same, batch_size=8, epochs=3)
    expected, found = (trainer.train(task_of(trainer, examples(41))) for trainer in (ours, theirs))
    assert found.steps == expected.steps == 15
    np.testing.assert_allclose(found.model.trained, expected.model.trained, atol=1e-6)
    np.testing.assert_allclose(found.model.statistics, expected.model.statistics, rtol=1e-5)


def test_an_interrupt_while_lightning_trains_is_still_one():
    class Interrupted(Classifier):
        def training_step(self, batch: list[torch.Tensor], _place: int) -> torch.Tensor:
            raise KeyboardInterrupt

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    trainer = LightningTrainer(Interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(task_of(trainer))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_scaled_model_predicts_from_what_was_measured():
    trainer = LightningTrainer(Classifier, batch_size=8, epochs=10, scaled=True)
    task = task_of(trainer)
    trained = trainer.train(task).model
    with torch.no_grad():
        scores = trainer.predictor(task.layout, trained)(torch.tensor(task.data.features))
    accuracy = (scores.argmax(dim=1).numpy() == task.data.labels).mean()
    assert trainer.evaluate(task.layout, trained, task.data)[1]["accuracy"] == pytest.approx(accuracy)


def test_nodes_learn_together_in_a_run():
    app = App(
        trainer=LightningTrainer(Classifier, batch_size=8, epochs=2),
        plan=Plan(
            rounds=3, selector=Everyone(), client=FedAvg(), aggregator=ExampleWeightedMean(), server=SGD(),
            statistics="average", evaluation=Evaluation(every=3),
        ),
        population={f"node {n}": NodeData(examples(40, seed=n), examples(40, seed=9)) for n in range(2)},
        schema=SCHEMA,
    )  # fmt: skip
    result = simulate(app)
    assert result.state == "finished"
    assert result.metrics()[-1][1]["accuracy"] > 0.5
    with pytest.raises(PlanError, match="FedProx"):
        replace(app, plan=replace(app.plan, client=FedProx(0.1)))


class NoValidation(Classifier):
    """Cannot measure."""

    validation_step = lightning.LightningModule.validation_step


@pytest.mark.parametrize(
    ("build", "data", "told"),
    [
        (Classifier, Examples(np.zeros((8, 4)), np.zeros(8, int)), "module Classifier cannot work"),
        (Classifier, Examples(np.zeros((8, 5)), np.full(8, 7)), "not in the label set"),
        (NoValidation, examples(), "module NoValidation cannot work"),
        (normalised, examples(), "module Sequential cannot work"),
    ],
)
def test_what_lightning_refuses_is_said_in_words(build: Any, data: Examples, told: str):
    trainer = LightningTrainer(build, batch_size=8)
    layout, model = begin(trainer)
    with pytest.raises(TrainingError, match=told):
        trainer.evaluate(layout, model, data)
    if build is not NoValidation:
        with pytest.raises(TrainingError, match=told):
            trainer.train(task_of(trainer, data))


@pytest.mark.parametrize(
    "settings", [{"batch_size": 0}, {"epochs": 0}, {"steps": 0}, {"threads": 0}, {"settings": {"max_epochs": 3}}]
)
def test_settings_that_cannot_train_are_refused(settings: dict[str, Any]):
    with pytest.raises(AppError, match=next(iter(settings))):
        LightningTrainer(Classifier, **settings)
