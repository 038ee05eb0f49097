"""TorchTrainer: that it steps as PyTorch does, and that a task gives the same bits wherever it runs."""

import os
import pickle
import random
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lycia import (
    SGD,
    Adam,
    App,
    Evaluation,
    Everyone,
    ExampleWeightedMean,
    Faults,
    FedAvg,
    FedProx,
    Normalisation,
    Plan,
    RoundRules,
    simulate,
)
from lycia.core.keys import Key
from lycia.core.layout import Layout, Model
from lycia.core.training import LocalTask, NodeData
from lycia.data import DIGITS, Examples, Schema, digits, evenly, hold_out
from lycia.testing import check_trainer, digest_of
from lycia.trainers.local import CosineDecay, LocalAdam, StepDecay, Work
from lycia.trainers.torch import TorchTrainer
from tests.trainers.torch_modules import (
    EACH,
    NUMBERS,
    SCHEMA,
    Tied,
    begin,
    examples,
    linear,
    network,
    normalised,
    task_of,
)

HELD = NodeData(examples(41), examples(30, seed=1))


# ---------------------------------------------------------------------------------------------------- it keeps its word


@pytest.mark.parametrize(
    "trainer",
    [
        TorchTrainer(linear, EACH),
        TorchTrainer(network, nn.CrossEntropyLoss(), optimizer=SGD(0.1, momentum=0.9), clip_norm=1.0),
        TorchTrainer(normalised, EACH, optimizer=LocalAdam(0.01), batch_size=8, epochs=2, scaled=True),
        TorchTrainer(Tied, EACH, optimizer=partial(torch.optim.RMSprop, lr=0.01), accumulate=2, batch_size=8),
        TorchTrainer(Tied, EACH, steps=5, schedule=CosineDecay(rounds=3), local=("norm.*",), frozen="head.bias"),
        TorchTrainer(normalised, EACH, precision="bfloat16"),
        TorchTrainer(lambda: normalised().bfloat16(), lambda out, t: EACH(out.float(), t), precision="bfloat16"),
        TorchTrainer(network, EACH, loop=lambda *_: None),
    ],
    ids=lambda trainer: getattr(trainer.build_model, "__name__", "") + repr(trainer.optimizer)[:12],
)
def test_a_trainer_keeps_its_contract(trainer: TorchTrainer):
    check_trainer(trainer, HELD, SCHEMA)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(0.1), partial(torch.optim.SGD, lr=0.1)),
        (SGD(0.1, momentum=0.9), partial(torch.optim.SGD, lr=0.1, momentum=0.9)),
        (SGD(0.1, weight_decay=0.1), partial(torch.optim.SGD, lr=0.1, weight_decay=0.1)),
        (
            SGD(0.05, momentum=0.5, weight_decay=0.1),
            partial(torch.optim.SGD, lr=0.05, momentum=0.5, weight_decay=0.1),
        ),
        (LocalAdam(0.01), partial(torch.optim.Adam, lr=0.01)),
        (
            LocalAdam(0.01, beta1=0.8, beta2=0.9, epsilon=1e-4, weight_decay=0.1),
            partial(torch.optim.Adam, lr=0.01, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.1),
        ),
        (LocalAdam(0.01, weight_decay=0.1, decoupled=True), partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)),
    ],
    ids=repr,
)
def test_local_steps_are_those_of_a_plain_loop(ours: SGD | LocalAdam, theirs: Callable[..., Any]):
    trainer = TorchTrainer(network, EACH, optimizer=ours, batch_size=16, epochs=3)
    task = task_of(trainer)
    expected, losses = plain_loop(task, theirs, batch_size=16, epochs=3)
    result = trainer.train(task)
    np.testing.assert_allclose(result.model.trained, expected, rtol=1e-5, atol=1e-7)
    assert result.metrics["loss"] == pytest.approx(np.average(losses, weights=[16, 16, 8] * 3), rel=1e-5)
    assert (result.steps, result.weight) == (9, 40.0)
    assert result.learning_rate == pytest.approx(ours.learning_rate)
    through_torch = replace(trainer, optimizer=theirs).train(task)
    np.testing.assert_allclose(through_torch.model.trained, expected, rtol=1e-5, atol=1e-7)
    assert through_torch.learning_rate == pytest.approx(ours.learning_rate)


def plain_loop(
    task: LocalTask, optimizer: Callable[..., Any], batch_size: int, epochs: int
) -> tuple[np.ndarray, list[float]]:
    """Local training as anybody would write it, in the order of batches that the key gives."""
    module, order, losses = network(), task.key.generator(), []
    nn.utils.vector_to_parameters(torch.tensor(task.model.trained), module.parameters())
    x, y = torch.tensor(task.data.features, dtype=torch.float32), torch.tensor(task.data.labels)
    steps = optimizer(module.parameters())
    for _ in range(epochs):
        shuffled = torch.tensor(order.permutation(len(x)))
        for chosen in shuffled.split(batch_size):
            steps.zero_grad()
            loss = nn.functional.cross_entropy(module(x[chosen]), y[chosen])
            loss.backward()
            steps.step()
            losses.append(loss.item())
    return nn.utils.parameters_to_vector(module.parameters()).detach().numpy(), losses


@pytest.mark.parametrize("build", [network, normalised])
def test_a_loss_for_each_example_and_a_mean_loss_train_the_same(build: Callable[[], nn.Module]):
    each = TorchTrainer(build, EACH, batch_size=16, epochs=2, optimizer=SGD(0.1))
    mean = replace(each, loss=nn.CrossEntropyLoss())
    one, other = (trainer.train(task_of(trainer)) for trainer in (each, mean))
    np.testing.assert_allclose(one.model.trained, other.model.trained, rtol=1e-5, atol=1e-7)
    assert one.metrics["loss"] == pytest.approx(other.metrics["loss"], rel=1e-6)
    measured = [
        trainer.evaluate(*begin(trainer), examples(2500))[1]["loss"] for trainer in (each, mean)
    ]  # three batches of different sizes
    assert measured[0] == pytest.approx(measured[1], rel=1e-6)


@pytest.mark.parametrize("loss", [EACH, nn.CrossEntropyLoss()])
@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.1, momentum=0.9), LocalAdam(0.01)])
def test_accumulated_batches_step_as_one_large_batch_would(loss: Callable[..., Any], optimizer: SGD | LocalAdam):
    # 40 examples are batches of 8, 8, 8, 8, 8 or of 16, 16, 8: the last group is not full
    small = TorchTrainer(network, loss, optimizer=optimizer, batch_size=8, accumulate=2, epochs=2)
    large = replace(small, batch_size=16, accumulate=1)
    one, other = (trainer.train(task_of(trainer)) for trainer in (small, large))
    np.testing.assert_allclose(one.model.trained, other.model.trained, rtol=1e-4, atol=1e-6)
    assert one.steps == other.steps == 6


def test_a_group_weights_its_batches_by_their_examples():
    small = TorchTrainer(network, EACH, optimizer=SGD(0.1), batch_size=30, accumulate=2)  # 30 and 10
    large = replace(small, batch_size=40, accumulate=1)
    one, other = (trainer.train(task_of(trainer)) for trainer in (small, large))
    np.testing.assert_allclose(one.model.trained, other.model.trained, rtol=1e-5, atol=1e-6)
    assert one.metrics["loss"] == pytest.approx(other.metrics["loss"], rel=1e-5)


def test_steps_can_be_counted_instead_of_epochs():
    trainer = TorchTrainer(linear, EACH, batch_size=16, steps=7)  # 3 batches an epoch
    result = trainer.train(task_of(trainer))
    assert result.steps == 7
    halved = replace(trainer, accumulate=2)
    assert halved.train(task_of(halved)).steps == 7
    one = replace(trainer, steps=3)
    assert digest_of(one.train(task_of(one)).model) == digest_of(
        replace(trainer, steps=None).train(task_of(trainer)).model
    )


def test_a_gradient_is_clipped_to_its_norm_and_no_further():
    moved = []
    for norm in (1e-3, 1e6):
        trainer = TorchTrainer(network, EACH, optimizer=SGD(1.0), steps=1, clip_norm=norm)
        task = task_of(trainer)
        moved.append(np.linalg.norm(trainer.train(task).model.trained - task.model.trained))
    free = replace(trainer, clip_norm=None)
    assert moved[0] == pytest.approx(1e-3, rel=1e-2)
    assert moved[1] == pytest.approx(np.linalg.norm(free.train(task).model.trained - task.model.trained), rel=1e-5)


# -------------------------------------------------------------------------------------------------- terms and schedules


def test_a_term_is_added_after_clipping_and_before_momentum_and_decay():
    rule = SGD(0.1, momentum=0.5, weight_decay=0.2)
    trainer = TorchTrainer(network, EACH, optimizer=rule, steps=2, clip_norm=1e-9)
    task = task_of(trainer, term=lambda gradient, _: gradient + np.float32(1))
    w = task.model.trained
    first = 1 + 0.2 * w
    second = 0.5 * first + 1 + 0.2 * (w - 0.1 * first)
    np.testing.assert_allclose(trainer.train(task).model.trained, w - 0.1 * (first + second), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", [SGD(0.1), LocalAdam(0.01), partial(torch.optim.SGD, lr=0.1)])
def test_a_term_sees_the_gradient_and_the_parameters_of_every_step(optimizer: Any):
    trainer = TorchTrainer(network, EACH, optimizer=optimizer, batch_size=16, epochs=2)
    seen = []

    def look(gradient: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        seen.append((gradient.copy(), parameters.copy()))
        return gradient

    task = task_of(trainer)
    watched, plain = trainer.train(replace(task, term=look)), trainer.train(task)
    assert len(seen) == watched.steps == 6
    assert all(part.shape == task.model.trained.shape and part.dtype == np.float32 for pair in seen for part in pair)
    assert (seen[0][1] == task.model.trained).all()
    assert not (seen[1][1] == task.model.trained).any()
    np.testing.assert_allclose(watched.model.trained, plain.model.trained, rtol=1e-6)


def test_a_proximal_term_keeps_local_training_closer():
    trainer = TorchTrainer(network, EACH, optimizer=SGD(0.1), epochs=20)
    task = task_of(trainer)
    start = task.model.trained
    free = trainer.train(task).model.trained
    held = trainer.train(replace(task, term=FedProx(mu=1.0).term(start, {}, {}))).model.trained
    assert np.linalg.norm(held - start) < 0.5 * np.linalg.norm(free - start)


def test_a_term_leaves_personal_layers_alone():
    trainer = TorchTrainer(network, EACH, optimizer=SGD(0.1), local=("2.*",), steps=1)
    task = task_of(trainer, term=lambda gradient, _: np.zeros_like(gradient))
    result = trainer.train(task)
    assert (result.model.trained == task.model.trained).all()
    assert result.model.local.shape == (3 * 7 + 3,)
    assert (result.model.local != task.model.local).any()


def test_a_schedule_sets_every_step_and_the_result_says_their_mean():
    trainer = TorchTrainer(network, EACH, optimizer=SGD(0.1), batch_size=10, schedule=CosineDecay(rounds=2))
    still = {"term": lambda gradient, _: np.ones_like(gradient)}
    task = task_of(trainer, round=1, **still)
    rates = [0.1 * CosineDecay(rounds=2).factor(1 + step / 4) for step in range(4)]
    result = trainer.train(task)
    assert result.learning_rate == pytest.approx(np.mean(rates))
    np.testing.assert_allclose(task.model.trained - result.model.trained, sum(rates), rtol=1e-4)
    through_torch = replace(trainer, optimizer=partial(torch.optim.SGD, lr=0.1)).train(task)
    assert through_torch.learning_rate == pytest.approx(np.mean(rates))
    np.testing.assert_allclose(through_torch.model.trained, result.model.trained, rtol=1e-5, atol=1e-7)


def test_a_step_decay_changes_from_round_to_round_and_not_within():
    trainer = TorchTrainer(linear, EACH, optimizer=SGD(0.1), batch_size=10, schedule=StepDecay(every=2, by=0.5))
    rates = [trainer.train(task_of(trainer, round=number)).learning_rate for number in range(4)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.05, 0.05])


def test_groups_of_a_foreign_optimizer_keep_their_own_rates():
    def two_rates(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": parameters[:1], "lr": 0.0}, {"params": parameters[1:], "lr": 0.2}], lr=1.0)

    trainer = TorchTrainer(linear, EACH, optimizer=two_rates)
    task = task_of(trainer)
    result = trainer.train(task)
    assert (result.model.trained[:15] == task.model.trained[:15]).all()
    assert (result.model.trained[15:] != task.model.trained[15:]).all()
    assert result.learning_rate == pytest.approx(0.2 * 3 / 18)


# -------------------------------------------------------------------------------------------------------- the same bits


class Forgetful(nn.Module):
    """Draws a mask, counts its batches, and keeps what it saw last: in attributes and in buffers that no file has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.register_buffer("seen", torch.zeros(5), persistent=False)
        self.register_buffer("mean", torch.zeros(5))
        self.batches, self.last = 0, None
        self.noise = torch.rand(5)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Scores that depend on all that it remembers."""
        if self.training:
            self.batches += 1
            self.seen += rows.mean(dim=0)
            self.mean = 0.9 * self.mean + 0.1 * rows.mean(dim=0)  # another tensor every time
            self.last = rows.mean()
            self.noise *= 0.9
        rows = rows + 0.01 * self.batches * self.seen + self.mean + self.noise + (self.last or 0)
        return self.layer(nn.functional.dropout(rows, 0.2, self.training))


class Restless(nn.Module):
    """Draws from every generator, and changes what it is made of: lists, arrays, hooks, submodules, what is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head, self.between = nn.Linear(5, 5), nn.Linear(5, 3), nn.Identity()
        self.seen, self.counts, self.scale = [], {"batches": {"all": deque([0])}}, np.ones(1)
        self.seen.append(self.seen)
        with torch.inference_mode():
            self.fixed = [torch.ones(5), torch.eye(5).to_sparse()]
        self.register_buffer("wide", torch.ones(1).expand(5), persistent=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Scores that depend on all of it."""
        if self.training:
            self.seen.append(len(rows))
            self.counts["batches"]["all"][0] += 1
            self.scale *= 0.9
            self.between = nn.Tanh()
            self.layer.register_forward_hook(lambda _module, _inputs, outputs: outputs * 1.1)
            if len(self.seen) > 3:
                self.layer.weight.requires_grad_(False)
        size = len(self.seen) + self.counts["batches"]["all"][0] + float(self.scale[0])
        size += random.random() + float(np.random.rand())  # noqa: NPY002  # as users do
        return self.head(self.between(self.layer(rows * self.wide))) * 0.1 * size


@pytest.mark.parametrize("build", [normalised, Tied, Forgetful, Restless])
def test_what_was_trained_before_changes_nothing(build: Callable[[], nn.Module]):
    trainer = TorchTrainer(build, EACH, optimizer=SGD(0.1, momentum=0.9), batch_size=8)
    task = task_of(trainer)
    first = digest_of(trainer.train(task).model)
    measured = trainer.evaluate(task.layout, task.model, examples())
    trainer.train(task_of(trainer, examples(77, seed=3), seed=9))
    with pytest.raises(Exception, match="shape"):
        trainer.train(task_of(trainer, Examples(np.zeros((9, 4)), np.zeros(9, int))))
    random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002  # nor does what others have drawn
    assert digest_of(trainer.train(task).model) == first
    assert trainer.evaluate(task.layout, task.model, examples()) == measured
    fresh = replace(trainer)
    assert digest_of(fresh.train(task).model) == first
    assert digest_of(trainer.train(replace(task, key=Key(8))).model) != first


def test_statistics_come_back_as_the_module_left_them():
    trainer = TorchTrainer(Forgetful, EACH, batch_size=8, epochs=2)
    result = trainer.train(task_of(trainer))
    assert (result.model.statistics != 0).all()
    trainer = TorchTrainer(normalised, EACH, batch_size=8, epochs=2)
    task = task_of(trainer)
    arrays = task.layout.arrays(trainer.train(task).model)
    assert arrays["1.num_batches_tracked"] == 10
    assert arrays["1.num_batches_tracked"].dtype == np.int64
    assert (arrays["1.running_var"] > 0).all()
    assert (arrays["1.running_mean"] != 0).all()


@pytest.mark.parametrize("name", ["normalised", "Tied"])
def test_another_process_gives_the_same_bits(name: str):
    program = f"""
from functools import partial
import torch
torch.manual_seed(99), torch.rand(3), torch.set_num_threads(2)
from lycia import SGD
from lycia.testing import digest_of
from lycia.trainers.torch import TorchTrainer
from tests.trainers.torch_modules import EACH, {name}, task_of
trainer = TorchTrainer({name}, EACH, optimizer=SGD(0.1, momentum=0.9), batch_size=8)
print(digest_of(trainer.train(task_of(trainer)).model))
"""
    build = {"normalised": normalised, "Tied": Tied}[name]
    trainer = TorchTrainer(build, EACH, optimizer=SGD(0.1, momentum=0.9), batch_size=8)
    here = digest_of(trainer.train(task_of(trainer)).model)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.strip() == here


def test_generators_and_threads_are_as_they_were():
    trainer = TorchTrainer(normalised, EACH, threads=2)

    def state() -> tuple[bytes, str, str, int, bool]:
        numbers = torch.get_rng_state().numpy().tobytes()
        legacy = np.random.get_state()  # noqa: NPY002  # that it is left alone
        return numbers, str(legacy), str(random.getstate()), torch.get_num_threads(), torch.is_grad_enabled()

    before = state()
    task = task_of(trainer)
    trainer.train(task)
    trainer.train(replace(task, data=Drawing()))
    trainer.evaluate(task.layout, task.model, examples())
    with pytest.raises(Exception, match="no examples"):
        trainer.train(replace(task, data=examples(0)))
    with torch.no_grad():
        trainer.train(task)
    assert state() == before


class Drawing(torch.utils.data.Dataset[Any]):
    """Augments what it gives, with whatever generator comes to hand."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        noise = torch.rand(5) + random.random() + float(np.random.rand())  # noqa: NPY002  # as users do
        return noise, place % 3


def test_a_dataset_that_augments_at_random_draws_from_the_key():
    trainer = TorchTrainer(linear, EACH, epochs=2)
    task = task_of(trainer, Drawing())
    random.seed()
    first = digest_of(trainer.train(task).model)
    torch.rand(5)
    assert digest_of(trainer.train(task).model) == first
    assert digest_of(trainer.train(replace(task, key=Key(77))).model) != first


def test_the_first_model_follows_from_the_key():
    trainer = TorchTrainer(normalised, EACH)
    torch.manual_seed(1)
    one = digest_of(begin(trainer)[1])
    torch.manual_seed(2)
    assert digest_of(begin(trainer)[1]) == one
    assert digest_of(begin(trainer, seed=1)[1]) != one


def test_a_trainer_is_a_value_that_travels():
    trainer = TorchTrainer(network, EACH, metrics={"mean": _mean_output}, frozen=["0.bias"])
    task = task_of(trainer)
    first = digest_of(trainer.train(task).model)
    assert hash(trainer) == hash(replace(trainer))
    assert trainer == replace(trainer)
    assert trainer != replace(trainer, epochs=2)
    travelled = pickle.loads(pickle.dumps(replace(trainer, loss=nn.CrossEntropyLoss(reduction="none"))))
    assert digest_of(travelled.train(task).model) == first
    assert len(pickle.dumps(trainer)) < 2000  # without the module that it has ready


def _mean_output(outputs: torch.Tensor, _targets: torch.Tensor) -> torch.Tensor:
    return outputs.mean(dim=1)


def test_a_module_is_built_once_for_many_nodes():
    built = []

    def build() -> nn.Module:
        built.append(network())
        return built[-1]

    trainer = TorchTrainer(build, EACH)
    task = task_of(trainer)
    for seed in range(5):
        trainer.train(replace(task, key=Key(seed)))
        trainer.evaluate(task.layout, task.model, task.data)
    assert len(built) == 2  # for the first model, and for the work


def test_a_metric_may_train_with_the_same_trainer():
    def score_after_training(_outputs: torch.Tensor, _targets: torch.Tensor) -> float:
        return inner.train(task).metrics["loss"]

    inner = TorchTrainer(network, EACH)
    task = task_of(inner)
    outer = replace(inner, metrics={"later": score_after_training})
    assert outer.evaluate(task.layout, task.model, task.data)[1]["later"] == inner.train(task).metrics["loss"]


# ---------------------------------------------------------------------------------------------- narrow and wide numbers


@pytest.mark.parametrize(("dtype", "bytes_each"), [("bfloat16", 2), ("float16", 2), ("float64", 8)])
def test_a_module_is_stored_in_its_own_dtype_and_stepped_in_float32(dtype: str, bytes_each: int):
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)).to(getattr(torch, dtype))

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return EACH(outputs.float(), targets)

    class In(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build()

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.inner(rows.to(getattr(torch, dtype)))

    trainer = TorchTrainer(In, loss, optimizer=SGD(1e-4), epochs=10)
    task = task_of(trainer)
    tensors = task.layout.tensors(task.model)
    assert tensors["inner.0.weight"].data.nbytes == 15 * bytes_each
    result = trainer.train(task)
    moved = result.model.trained - task.model.trained
    assert (moved != 0).any()  # steps far below what a bfloat16 of this size can tell apart
    assert np.abs(moved).max() < 0.01
    exact = TorchTrainer(
        lambda: nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), EACH, optimizer=SGD(1e-4), epochs=10
    )
    layout, model = begin(exact)
    reference = exact.train(LocalTask(layout, replace(model, trained=task.model.trained), task.data, task.key)).model
    np.testing.assert_allclose(moved, reference.trained - task.model.trained, atol=3e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_stays_close_to_float32(precision: str):
    full = TorchTrainer(network, EACH, optimizer=SGD(0.1), epochs=3)
    mixed = replace(full, precision=precision)
    task = task_of(full)
    one, other = full.train(task), mixed.train(task)
    assert not np.array_equal(one.model.trained, other.model.trained)
    assert other.model.trained.dtype == np.float32
    np.testing.assert_allclose(other.model.trained, one.model.trained, atol=0.02)
    assert other.steps == one.steps
    losses = [trainer.evaluate(task.layout, task.model, task.data)[1]["loss"] for trainer in (full, mixed)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


def test_a_float16_gradient_that_overflows_costs_its_step_and_no_more():
    trainer = TorchTrainer(
        network, lambda out, t: 3e3 * EACH(out, t), optimizer=SGD(1e-6), batch_size=8, epochs=4, precision="float16"
    )
    result = trainer.train(task_of(trainer))
    assert 0 < result.steps < 20
    assert np.isfinite(result.model.trained).all()


# ------------------------------------------------------------------------------------------------------------- the data


def test_a_dataset_of_tensors_trains_as_examples_do():
    data = examples()
    features, labels = torch.tensor(data.features), torch.tensor(data.labels)
    tensors = torch.utils.data.TensorDataset(features, labels)

    class Plain:
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
            return data.features[place], int(data.labels[place])

    turned = torch.utils.data.Subset(
        torch.utils.data.TensorDataset(features.flip(0), labels.flip(0)), range(39, -1, -1)
    )
    twice = torch.utils.data.Subset(torch.utils.data.Subset(turned, range(39, -1, -1)), range(39, -1, -1))
    trainer = TorchTrainer(network, EACH, optimizer=SGD(0.1), batch_size=16)
    task = task_of(trainer)
    expected = digest_of(trainer.train(task).model)
    measured = trainer.evaluate(task.layout, task.model, data)
    for other in (tensors, Plain(), turned, twice, [tensors[place] for place in range(40)]):
        assert digest_of(trainer.train(replace(task, data=other)).model) == expected
        count, metrics = trainer.evaluate(task.layout, task.model, other)
        assert count == measured[0]
        assert metrics == pytest.approx(measured[1])


def test_token_ids_stay_integers_and_all_else_becomes_float32():
    seen = []

    class Look(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(9, 4, sparse=True)
            self.head = nn.Linear(4, 2)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            seen.append((rows.dtype, tuple(rows.shape)))
            return self.head(self.embedding(rows.long()).mean(dim=1))

    for optimizer in (SGD(0.1), SGD(0.1, momentum=0.9), LocalAdam()):
        trainer = TorchTrainer(Look, EACH, optimizer=optimizer)
        schema = Schema(shape=(6,), labels=("no", "yes"))
        for dtype in (np.uint8, np.int16, np.uint32, np.int64, bool, np.float64):
            rows = (np.arange(60).reshape(10, 6) % 9).astype(dtype)
            data = Examples(rows, np.array(["yes", "no"] * 5))
            result = trainer.train(task_of(trainer, data, schema=schema))
            assert np.isfinite(result.model.trained).all()
    assert [dtype for dtype, _ in seen] == [*[torch.int64] * 4, *[torch.float32] * 2] * 3
    assert {shape for _, shape in seen} == {(10, 6)}


def test_inputs_of_a_dataset_may_have_several_parts():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 1)

        def forward(self, parts: dict[str, Any]) -> torch.Tensor:
            return self.layer(parts["a"]).squeeze(1) + parts["b"]

    items = [({"a": np.full(5, float(place)), "b": place / 10}, place / 5) for place in range(10)]
    trainer = TorchTrainer(Both, nn.MSELoss(), optimizer=SGD(1e-3), epochs=20)
    task = task_of(trainer, items, schema=None)
    before = trainer.evaluate(task.layout, task.model, items)[1]
    after = trainer.evaluate(task.layout, trainer.train(task).model, items)[1]
    assert after["loss"] < before["loss"]
    assert after["mse"] == pytest.approx(after["loss"])


def test_features_are_scaled_as_part_of_the_model():
    trainer = TorchTrainer(network, EACH, scaled=True)
    task = task_of(trainer)
    data = examples()
    scaled = Examples((data.features.astype(np.float32) + 8) / 16, data.labels)
    plain = replace(trainer, scaled=False)
    other = task_of(plain, scaled)
    assert digest_of(replace(trainer.train(task).model, frozen={})) == digest_of(
        replace(plain.train(other).model, frozen={})
    )
    whole = Examples(np.arange(25).reshape(5, 5), np.array([0, 1, 2, 0, 1]))
    assert np.isfinite(trainer.train(replace(task, data=whole)).model.trained).all()


def test_a_last_single_example_joins_the_batch_before_it_where_batches_are_normalised():
    trainer = TorchTrainer(normalised, EACH, batch_size=8)
    assert trainer.train(task_of(trainer, examples(17))).steps == 2
    plain = replace(trainer, build_model=network)
    assert plain.train(task_of(plain, examples(17))).steps == 3


def test_examples_that_must_not_be_written_to_are_only_read():
    data = examples()
    for array in (data.features, data.labels):
        array.setflags(write=False)
    trainer = TorchTrainer(network, EACH)
    assert trainer.train(task_of(trainer, data)).weight == 40


def test_large_examples_come_in_portions(monkeypatch: pytest.MonkeyPatch):
    trainer = TorchTrainer(normalised, EACH, batch_size=8, epochs=2)
    task = task_of(trainer, examples(43))
    at_once = digest_of(trainer.train(task).model)
    monkeypatch.setattr("lycia.trainers.torch.rows._AT_ONCE_BYTES", 10 * 5 * 4)
    assert digest_of(trainer.train(task).model) == at_once


# ------------------------------------------------------------------------------------------------------------ measuring


def test_classes_are_measured_by_loss_and_accuracy():
    trainer = TorchTrainer(network, EACH, optimizer=SGD(0.1), epochs=40, batch_size=8)
    task, data = task_of(trainer, examples(300)), examples(1500, seed=4)
    trained = trainer.train(task).model
    count, metrics = trainer.evaluate(task.layout, trained, data)
    assert count == 1500
    module = trainer.predictor(task.layout, trained)
    with torch.no_grad():
        scores = module(torch.tensor(data.features, dtype=torch.float32))
    assert metrics["accuracy"] == (scores.argmax(dim=1).numpy() == data.labels).mean()
    assert metrics["accuracy"] > 0.8
    assert metrics["loss"] == pytest.approx(
        nn.functional.cross_entropy(scores, torch.tensor(data.labels)).item(), rel=1e-5
    )


@pytest.mark.parametrize("squeezed", [True, False])
def test_a_single_logit_is_measured_as_two_classes(squeezed: bool):
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(outputs.reshape(-1), targets.float(), reduction="none")

    build = (lambda: nn.Sequential(nn.Linear(5, 1), nn.Flatten(0))) if squeezed else (lambda: nn.Linear(5, 1))
    schema = Schema(shape=(5,), labels=("low", "high"))
    data = examples(200)
    data = Examples(data.features, np.where(data.labels > 0, "high", "low"))
    trainer = TorchTrainer(build, loss, optimizer=SGD(0.3), epochs=20)
    task = task_of(trainer, data, schema=schema)
    assert trainer.evaluate(task.layout, trainer.train(task).model, data)[1]["accuracy"] > 0.9


def test_numbers_are_measured_by_their_squared_error():
    data = Examples(examples(100).features, examples(100).features @ np.arange(5.0))
    trainer = TorchTrainer(
        lambda: nn.Linear(5, 1),
        lambda out, t: nn.functional.l1_loss(out[:, 0], t),
        optimizer=SGD(0.1),
        epochs=30,
        batch_size=10,
    )
    task = task_of(trainer, data, schema=NUMBERS)
    metrics = trainer.evaluate(task.layout, trainer.train(task).model, data)[1]
    assert set(metrics) == {"loss", "mse"}
    assert metrics["mse"] < 0.1 * data.labels.var()


def test_own_metrics_are_means_over_examples_or_one_number_for_all():
    sizes = []

    def whole(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        sizes.append(len(outputs))
        return float(outputs.max()) + 0 * len(targets)

    metrics = {
        "first": lambda outputs, _: (outputs[:, 0] > 0).float(),
        "whole": whole,
        "accuracy": lambda _, targets: np.zeros(len(targets)),
    }
    trainer = TorchTrainer(network, EACH, metrics=metrics)
    layout, model = begin(trainer)
    found = trainer.evaluate(layout, model, examples(2500))[1]
    with torch.no_grad():
        outputs = trainer.predictor(layout, model)(torch.tensor(examples(2500).features, dtype=torch.float32))
    assert found["first"] == pytest.approx((outputs[:, 0] > 0).float().mean().item())
    assert found["whole"] == pytest.approx(outputs.max().item())
    assert sizes[-1] == 2500
    assert found["accuracy"] == 0
    assert set(found) == {"loss", "first", "whole", "accuracy"}


def test_measuring_changes_no_statistic_and_drops_nothing_out():
    trainer = TorchTrainer(normalised, EACH)
    task = task_of(trainer)
    one, other = (trainer.evaluate(task.layout, task.model, task.data) for _ in range(2))
    assert one == other
    again = trainer.train(task).model
    assert digest_of(again) == digest_of(replace(trainer).train(task).model)


# -------------------------------------------------------------------------------------------------- a loop of one's own


def by_hand(module: nn.Module, data: Any, work: Work) -> dict[str, float]:
    """As a user has it already."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1 * work.factor)
    total = steps = 0
    for _ in range(work.epochs):
        for inputs, targets in torch.utils.data.DataLoader(data, work.batch_size, shuffle=True):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(module(inputs.to(work.device)), targets)
            loss.backward()
            optimizer.step()
            total, steps = total + loss.item(), steps + 1
    return {"loss": total / steps, "steps": steps, "learning_rate": 0.1 * work.factor}


@pytest.mark.parametrize("data", [examples(), [(torch.ones(5), 1)] * 12, torch.utils.data.Subset(Drawing(), [1, 2, 3])])
def test_a_loop_of_ones_own_trains_the_module(data: Any):
    trainer = TorchTrainer(Tied, EACH, loop=by_hand, epochs=3, batch_size=8, schedule=StepDecay(1, 0.5), local="head.*")
    assert not trainer.takes_terms
    task = task_of(trainer, data, round=1)
    result = trainer.train(task)
    assert result.steps == 3 * -(-len(data) // 8)
    assert result.learning_rate == 0.05
    assert result.weight == len(data)
    assert set(result.metrics) == {"loss"}
    assert (result.model.trained != task.model.trained).any()
    assert (result.model.local != task.model.local).any()
    assert (result.model.statistics != task.model.statistics).any()
    assert result.model.frozen is task.model.frozen
    assert digest_of(trainer.train(task).model) == digest_of(result.model)


def test_a_loop_may_say_nothing():
    trainer = TorchTrainer(network, EACH, loop=lambda module, _data, _work: module.requires_grad_(False) and None)
    task = task_of(trainer)
    result = trainer.train(task)
    assert (result.steps, result.weight, result.metrics) == (0, 40.0, {})
    assert digest_of(result.model) == digest_of(task.model)


def test_a_loop_does_not_reach_the_next_task():
    def spoil(module: nn.Module, _data: Any, work: Work) -> None:
        assert not hasattr(module, "spoiled")
        assert work.seed >= 0
        module.spoiled = True
        for parameter in module.parameters():
            parameter.data = torch.zeros_like(parameter)

    trainer = TorchTrainer(network, EACH, loop=spoil)
    task = task_of(trainer)
    for _ in range(2):
        assert not trainer.train(task).model.trained.any()


# ------------------------------------------------------------------------------------------------------------- in a run


def sites(count: int = 3) -> dict[str, NodeData]:
    kept = hold_out(digits()[:600], 0.3, Key(0))
    train, measure = evenly(kept.train, count, Key(1)), evenly(kept.held_out, count, Key(2))
    return {f"site {n}": NodeData(*parts) for n, parts in enumerate(zip(train, measure, strict=True))}


def test_digits_are_learned_by_nodes_with_norms_ties_and_a_frozen_layer():
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))

    app = App(
        trainer=TorchTrainer(build, EACH, optimizer=SGD(0.1, momentum=0.9), epochs=2),
        plan=Plan(
            rounds=6, selector=Everyone(), client=FedProx(0.01), aggregator=ExampleWeightedMean(), server=SGD(),
            statistics="average", evaluation=Evaluation(every=6),
        ),
        population=sites(),
        schema=DIGITS,
    )  # fmt: skip
    result = simulate(app)
    assert result.state == "finished"
    assert result.metrics()[-1][1]["accuracy"] > 0.88
    assert simulate(app).digest == result.digest


def test_pictures_of_bytes_are_described_and_scaled_also_by_a_node_with_a_single_one():
    def pictures(count: int) -> Examples:
        pixels = Key(count).generator().integers(0, 256, (count, 2, 3)).astype(np.uint8)
        pixels[:, 0, 0] = 7
        return Examples(pixels, (pixels[:, 1, 1] > 128).astype(np.int64))

    train = {"many": pictures(50), "some": pictures(30), "one": pictures(1)}
    trainer = TorchTrainer(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), EACH, optimizer=SGD(0.5), scaled=True
    )  # fmt: skip
    plan = Plan(
        rounds=5, selector=Everyone(), client=FedAvg(), aggregator=ExampleWeightedMean(), server=SGD(),
        normalisation=Normalisation(),
    )  # fmt: skip
    population = {name: NodeData(part, pictures(40)) for name, part in train.items()}
    schema = Schema(shape=(2, 3), labels=(0, 1))
    result = simulate(App(trainer=trainer, plan=plan, population=population, schema=schema))
    together = np.concatenate([part.features for part in train.values()]).reshape(81, 6)
    assert result.model.frozen["scaling"][0] == pytest.approx(together.mean(axis=0))
    assert result.model.frozen["scaling"][1] == pytest.approx([1.0, *together[:, 1:].std(axis=0)])
    assert result.records[0]["survivors"] == ["many", "one", "some"]
    assert result.metrics()[-1][1]["accuracy"] > 0.8


@pytest.mark.parametrize("statistics", ["local", "average"])
def test_a_node_is_measured_with_the_running_statistics_that_it_kept(statistics: str):
    seen: list[np.ndarray] = []

    class Looking(TorchTrainer):
        def evaluate(self, layout: Layout, model: Model, data: Any) -> tuple[float, dict[str, float]]:
            seen.append(model.statistics)
            return super().evaluate(layout, model, data)

    low, high = (Examples(examples().features + shift, examples().labels) for shift in (0, 9))
    plan = Plan(
        rounds=3, selector=Everyone(), client=FedAvg(), aggregator=ExampleWeightedMean(), server=SGD(),
        statistics=statistics, evaluation=Evaluation(),
    )  # fmt: skip
    population = {"high": NodeData(high, high), "low": NodeData(low, low)}
    simulate(App(trainer=Looking(lambda: nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3)), EACH), plan=plan,
                 population=population, schema=SCHEMA))  # fmt: skip
    apart = np.abs(seen[-1] - seen[-2]).max()
    assert (apart > 1.0) if statistics == "local" else (apart == 0)


def test_personal_heads_differ_and_stay_at_home():
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

    app = App(
        trainer=TorchTrainer(build, EACH, optimizer=SGD(0.3), epochs=3, local=("2.*",)),
        plan=Plan(
            rounds=3, selector=Everyone(), client=FedAvg(), aggregator=ExampleWeightedMean(), server=SGD(),
            evaluation=Evaluation(every=3),
        ),
        population=sites(),
        schema=DIGITS,
    )  # fmt: skip
    result = simulate(app)
    layout, start = app.trainer.first_model(DIGITS, Key(app.plan.seed).at("first model"))
    assert result.layout == layout
    assert (result.model.local == start.local).all()
    accuracies = [node["accuracy"] for node in result.records[-1]["evaluation"]["evaluate"]["nodes"].values()]
    with_the_first_head = app.trainer.evaluate(layout, result.model, digits())[1]["accuracy"]
    assert min(accuracies) > with_the_first_head + 0.1


@pytest.mark.parametrize("server", [SGD(), Adam(learning_rate=0.1)], ids=["FedAvg", "FedAdam"])
def test_no_server_rule_ever_touches_a_running_variance(server: Any):
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12, momentum=0.5), nn.ReLU(), nn.Linear(12, 10))

    population = sites(4)
    population["site 1"] = NodeData(population["site 1"].train[:30], population["site 1"].held_out)
    plan = Plan(
        rounds=3, selector=Everyone(), client=FedAvg(), aggregator=ExampleWeightedMean(), server=server,
        statistics="average", rules=RoundRules(quorum=0.5), evaluation=Evaluation(every=3),
    )  # fmt: skip
    app = App(trainer=TorchTrainer(build, EACH, optimizer=SGD(0.1)), plan=plan, population=population, schema=DIGITS)
    layout, model = app.trainer.first_model(DIGITS, Key(plan.seed).at("first model"))
    lost = Faults(script={(1, "site 2"): "vanish"})
    for number in range(3):
        result = simulate(app, rounds=number + 1, faults=lost)
        survivors = [name for name in population if (number, name) not in lost.script]
        assert result.records[number]["survivors"] == survivors
        asked, left, weights = layout.as_sent(model), [], []
        for name in survivors:
            key = Key(plan.seed).at(number, name, "train")
            done = app.trainer.train(LocalTask(layout, asked, population[name].train, key, round=number))
            left.append(done.model.statistics - asked.statistics)
            weights.append(done.weight)
        mean = model.statistics + np.average(left, axis=0, weights=weights)
        model = result.model
        for leaf, place in layout.places("statistics"):
            found, expected = model.statistics[place], mean[place] if leaf.dtype == "float32" else np.rint(mean[place])
            np.testing.assert_allclose(found, expected, rtol=1e-9)  # the grid on which sums are taken is far finer
        arrays = layout.arrays(model)
        assert (arrays["1.running_var"] > 0).all()
        assert (arrays["1.running_var"] != 1).all()
