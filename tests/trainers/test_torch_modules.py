"""What a module of PyTorch is as a federated model: which tensor is in which segment, and under which names."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lycia.core.keys import Key
from lycia.core.layout import Layout, Leaf, Model, read_checkpoint
from lycia.core.training import LocalTask
from lycia.data import Examples, Schema
from lycia.errors import LayoutError, TrainingError
from lycia.trainers import NumpyTrainer, load_model
from lycia.trainers.examples import labels_of
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


def segments(layout: Layout) -> dict[str, str]:
    """Name → segment, of all leaves."""
    return {leaf.name: leaf.segment for leaf in layout.leaves}


def leaf(layout: Layout, name: str) -> Leaf:
    """The leaf of that name."""
    return next(item for item in layout.leaves if item.name == name)


# ------------------------------------------------------------------------------------------------------------- segments


def test_parameters_are_trained_and_buffers_are_statistics():
    layout, model = begin(TorchTrainer(normalised, EACH))
    assert segments(layout) == {
        "0.weight": "trained", "0.bias": "trained", "1.weight": "trained", "1.bias": "trained",
        "1.running_mean": "statistics", "1.running_var": "statistics", "1.num_batches_tracked": "statistics",
        "4.weight": "trained", "4.bias": "trained", "labels": "frozen",
    }  # fmt: skip
    assert leaf(layout, "1.num_batches_tracked").dtype == "int64"
    assert leaf(layout, "1.num_batches_tracked").shape == ()
    assert labels_of(model) == (0, 1, 2)
    assert layout.arrays(model)["1.running_var"].tolist() == [1.0] * 6


def test_a_tied_tensor_is_one_leaf_with_aliases_and_trained_once():
    trainer = TorchTrainer(Tied, EACH)
    task = task_of(trainer)
    assert leaf(task.layout, "there.weight").aliases == ("back.weight",)
    arrays = task.layout.arrays(trainer.train(task).model)
    assert arrays["back.weight"] is arrays["there.weight"]
    assert (arrays["there.weight"] != task.layout.arrays(task.model)["there.weight"]).any()


def test_what_requires_no_gradient_is_frozen_and_stays():
    trainer = TorchTrainer(Tied, EACH)
    task = task_of(trainer)
    assert {name for name, segment in segments(task.layout).items() if segment == "frozen"} == {
        "stem.weight", "stem.bias", "labels",
    }  # fmt: skip
    result = trainer.train(task)
    assert result.model.frozen is task.model.frozen


def test_the_frozen_numbers_are_those_of_the_model_and_not_of_the_module():
    trainer = TorchTrainer(Tied, EACH)
    layout, model = begin(trainer)
    other = {**model.frozen, "stem.weight": np.zeros((4, 5), np.float32)}
    same, changed = (
        trainer.evaluate(layout, Model(model.trained, model.statistics, model.local, frozen), examples())[1]
        for frozen in (dict(model.frozen), other)
    )
    assert same == trainer.evaluate(layout, model, examples())[1]
    assert same != changed


def test_patterns_freeze_parameters_and_buffers():
    trainer = TorchTrainer(normalised, EACH, frozen=("1.*", "0.bias"))
    task = task_of(trainer)
    found = segments(task.layout)
    assert {name for name in found if found[name] == "frozen"} == {
        "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked", "labels",
    }  # fmt: skip
    first = trainer.train(task)
    assert first.model.statistics.shape == (0,)
    assert first.model.frozen is task.model.frozen
    again = trainer.train(task)  # though the buffers moved while the module trained
    assert (again.model.trained == first.model.trained).all()


def test_personal_layers_take_their_buffers_with_them_but_not_their_counters():
    trainer = TorchTrainer(normalised, EACH, local=("1.*",), batch_size=8)
    task = task_of(trainer)
    found = segments(task.layout)
    assert {name for name in found if found[name] == "local"} == {
        "1.weight", "1.bias", "1.running_mean", "1.running_var",
    }  # fmt: skip
    assert found["1.num_batches_tracked"] == "statistics"
    result = trainer.train(task)
    arrays = task.layout.arrays(result.model)
    assert (arrays["1.running_mean"] != 0).all()
    assert (arrays["1.weight"] != 1).any()
    moved = trainer.train(LocalTask(task.layout, result.model, task.data, task.key))
    assert (moved.model.local != result.model.local).any()


def test_other_kinds_of_buffers_keep_their_kind():
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)
            self.register_buffer("mask", torch.tensor([True, False, True]))
            self.register_buffer("scale", torch.ones(3, dtype=torch.bfloat16))
            self.register_buffer("codes", torch.arange(3, dtype=torch.uint8))
            self.register_buffer("scratch", torch.zeros(3), persistent=False)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.layer(rows).masked_fill(~self.mask, -1.0) * self.scale.float()

    trainer = TorchTrainer(Module, EACH, frozen=("codes",))
    task = task_of(trainer)
    kinds = {item.name: (item.segment, item.dtype) for item in task.layout.leaves}
    assert kinds["mask"] == ("statistics", "bool")
    assert kinds["scale"] == ("statistics", "bfloat16")
    assert kinds["codes"] == ("frozen", "uint8")
    assert "scratch" not in kinds
    result = trainer.train(task)
    assert (result.model.statistics == task.model.statistics).all()
    assert task.layout.arrays(result.model)["mask"].tolist() == [True, False, True]


def test_a_frozen_base_in_bfloat16_comes_and_goes_as_its_bits():
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(5, 4).bfloat16().requires_grad_(False)
            self.head = nn.Linear(4, 3)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.head(self.base(rows.bfloat16()).float())

    trainer = TorchTrainer(Adapted, EACH)
    layout, model = begin(trainer)
    assert leaf(layout, "base.weight").dtype == "bfloat16"
    module = Adapted()
    load_model_of(layout, model, module)
    patterns = module.base.weight.detach().view(torch.int16).numpy().view(np.uint16)
    assert (patterns == model.frozen["base.weight"]).all()
    file = b"".join(layout.file(model))
    again = read_checkpoint(file)[1]
    assert trainer.evaluate(layout, again, examples()) == trainer.evaluate(layout, model, examples())


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_recurrent_modules_are_trained_in_their_own_memory(cell: type[nn.Module]):
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell(2, 6, num_layers=2, batch_first=True)
            self.head = nn.Linear(6, 3)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.head(self.cell(rows)[0][:, -1])

    data = examples(60)
    series = Examples(np.repeat(data.features[:, :2, np.newaxis], 2, axis=2), data.labels)
    trainer = TorchTrainer(Reader, EACH, epochs=10, batch_size=8)
    task = task_of(trainer, series, schema=Schema(shape=(2, 2), labels=(0, 1, 2)))
    before = trainer.evaluate(task.layout, task.model, series)[1]["loss"]
    assert trainer.evaluate(task.layout, trainer.train(task).model, series)[1]["loss"] < before


# ----------------------------------------------------------------------------------------------- what goes in beside it


def test_a_module_may_be_built_from_the_schema_and_is_everywhere_the_same():
    def build(schema: Schema) -> nn.Module:
        return nn.Linear(schema.shape[0], len(schema.labels or ()))

    trainer = TorchTrainer(build, EACH)
    task = task_of(trainer)
    content = task.model.frozen["schema"].tobytes()
    assert Schema.from_json(content.decode()) == SCHEMA
    fresh = TorchTrainer(build, EACH)  # in another process, which was never shown the schema
    assert fresh.evaluate(task.layout, task.model, task.data) == trainer.evaluate(task.layout, task.model, task.data)
    assert json.loads(content)["labels"] == [0, 1, 2]


@pytest.mark.parametrize(
    "build", [nn.Identity, partial(nn.Linear, 5, 3), lambda width=3: nn.Linear(5, width), lambda *_: nn.Linear(5, 3)]
)
def test_a_module_that_needs_no_schema_is_called_without_one(build):
    trainer = TorchTrainer(build, EACH)
    if build is nn.Identity:
        with pytest.raises(TrainingError, match="no parameters to train"):
            begin(trainer)
        return
    layout, _ = begin(trainer, None)
    assert [item.name for item in layout.leaves] == ["weight", "bias"]


# ----------------------------------------------------------------------------------------------- models that do not fit


class Odd(nn.Module):
    """A parameter that is made by hand."""

    def __init__(self, **tensors: object) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        for name, tensor in tensors.items():
            setattr(self, name, tensor)


class WithState(nn.Linear):
    """Keeps something else than tensors."""

    def get_extra_state(self) -> object:
        return {"seen": 3}


def shared() -> nn.Module:
    module = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    module[1].weight = nn.Parameter(module[0].weight.detach().t())
    return module


@pytest.mark.parametrize(
    ("build", "settings", "told"),
    [
        (network, {"frozen": ("head.*",)}, "frozen=… names 'head.*'"),
        (network, {"local": ("0.weight", "1.*")}, "local=… names '1.*'"),
        (network, {"local": ("0.*",), "frozen": ("*.bias",)}, "both frozen=… and local=… name 0.bias."),
        (Tied, {"local": ("back.*",), "frozen": ("there.*",)}, "local=… name there.weight = back.weight."),
        (network, {"frozen": ("*",)}, "no parameters to train together"),
        (network, {"local": ("*",)}, "no parameters to train together"),
        (lambda: Odd(turn=nn.Parameter(torch.zeros(2, dtype=torch.complex64))), {}, "'turn' of the module is complex"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), {}, "'0.weight' of the module has no shape yet"),
        (lambda: WithState(5, 3), {}, "'_extra_state' of the module is a dict"),
        (lambda: Odd(scaling=nn.Parameter(torch.ones(3))), {}, "called 'scaling'"),
        (shared, {}, "'0.weight' and '1.weight' share memory"),
        (lambda: "module", {}, "build_model gave a str"),
        (lambda: linear, {}, "build_model gave a function"),
        (lambda one, two: linear(), {}, "needs the arguments one, two"),  # noqa: ARG005
    ],
)  # fmt: skip
def test_a_module_that_cannot_be_federated_says_why(build, settings: dict, told: str):
    with pytest.raises(TrainingError, match=re.escape(told)) as failure:
        begin(TorchTrainer(build, EACH, **settings))
    assert failure.value.why
    assert failure.value.do


@pytest.mark.parametrize("schema", [None, object()])
def test_where_a_schema_is_needed_it_must_be_there(schema):
    for trainer in (TorchTrainer(linear, EACH, scaled=True), TorchTrainer(lambda schema: linear(), EACH)):  # noqa: ARG005
        with pytest.raises(TrainingError, match="the app's schema is"):
            trainer.first_model(schema, Key(0))


def test_a_module_that_changes_between_rounds_is_refused():
    widths = iter((3, 4, 4))
    trainer = TorchTrainer(lambda: nn.Linear(5, next(widths)), EACH)
    task = task_of(trainer)
    with pytest.raises(TrainingError, match=r"build_model gives another model.*'weight' has shape \(4, 5\) instead of"):
        trainer.train(task)
    with pytest.raises(TrainingError, match=r"cannot be put into Linear: 'weight' has shape \(4, 5\) instead of"):
        TorchTrainer(trainer.build_model, EACH, loop=print).train(task)


def test_a_module_whose_segments_differ_is_refused():
    task = task_of(TorchTrainer(network, EACH, local=("2.*",)))
    with pytest.raises(TrainingError, match="their segments, aliases or order differ"):
        TorchTrainer(network, EACH).train(task)


def test_a_buffer_that_grows_is_refused():
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.seen = torch.cat([self.seen, rows.mean().detach()[None]])
            return self.layer(rows)

    trainer = TorchTrainer(Growing, EACH)
    task = task_of(trainer)
    with pytest.raises(TrainingError, match=r"'seen' has shape \(3,\) after training, and had \(1,\) before"):
        trainer.train(task)
    trainer.evaluate(task.layout, task.model, task.data)


def test_a_parameter_that_leaves_its_place_is_refused():
    class Moving(nn.Linear):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            if self.training and len(rows) == 3:
                self.weight.data = self.weight.data.clamp(-1, 1)
            return super().forward(rows)

    trainer = TorchTrainer(lambda: Moving(5, 3), EACH)
    task = task_of(trainer)
    first = trainer.train(task).model.trained
    with pytest.raises(TrainingError, match="other memory under weight while it trained"):
        trainer.train(task_of(trainer, examples(3)))
    assert (trainer.train(task).model.trained == first).all()


def test_a_loop_that_changes_the_module_is_refused():
    trainer = TorchTrainer(network, EACH, loop=lambda module, *_: module.double() and None)
    with pytest.raises(TrainingError, match="dtype float64 instead of float32"):
        trainer.train(task_of(trainer))


# -------------------------------------------------------------------------------------------------- out of a checkpoint


def load_model_of(layout: Layout, model: Model, into: nn.Module | TorchTrainer, folder: Path | None = None):
    """The model, by way of a file."""
    if folder is None:
        from lycia.trainers.torch import modules

        return modules.load_into(into, layout, model)
    path = folder / "model.safetensors"
    path.write_bytes(b"".join(layout.file(model)))
    return load_model(path, into=into)


def test_a_model_comes_back_into_a_module(tmp_path: Path):
    trainer = TorchTrainer(Tied, EACH, optimizer=TorchTrainer.optimizer, epochs=5)
    task = task_of(trainer)
    trained = trainer.train(task).model
    module = Tied()
    assert load_model_of(task.layout, trained, module, tmp_path) is module
    assert module.back.weight is module.there.weight
    state, arrays = module.state_dict(), task.layout.arrays(trained)
    assert all(np.array_equal(state[name].numpy(), arrays[name]) for name in state)
    assert set(arrays) == {*state, "labels"}
    apart = Tied()
    apart.back.weight = nn.Parameter(torch.zeros(4, 4))
    load_model_of(task.layout, trained, apart, tmp_path)
    rows = torch.tensor(examples().features, dtype=torch.float32)
    assert torch.equal(apart.eval()(rows), module.eval()(rows))
    same = load_model_of(task.layout, trained, trainer, tmp_path)
    assert torch.equal(same(rows), module(rows))
    assert not same.training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_module_of_another_dtype_takes_the_numbers_in_its_own(dtype: torch.dtype, tmp_path: Path):
    layout, model = begin(TorchTrainer(linear, EACH))
    module = load_model_of(layout, model, linear().to(dtype), tmp_path)
    assert module.weight.dtype == dtype
    assert torch.equal(module.bias.detach(), torch.tensor(layout.arrays(model)["bias"]).to(dtype))


def test_a_scaled_model_comes_back_as_one_that_scales(tmp_path: Path):
    trainer = TorchTrainer(network, EACH, scaled=True, epochs=10)
    task = task_of(trainer)
    trained = trainer.train(task).model
    data = examples()
    module = load_model_of(task.layout, trained, trainer, tmp_path)
    accuracy = trainer.evaluate(task.layout, trained, data)[1]["accuracy"]
    with torch.no_grad():
        raw = torch.tensor(data.features)
        assert (module(raw).argmax(dim=1).numpy() == data.labels).mean() == accuracy
    with pytest.raises(LayoutError, match="a bare module would not"):
        load_model_of(task.layout, trained, network(), tmp_path)


@pytest.mark.parametrize(
    ("made_by", "into"),
    [
        (TorchTrainer(network, EACH), linear()),
        (TorchTrainer(network, EACH), TorchTrainer(linear, EACH)),
        (TorchTrainer(linear, EACH), nn.Linear(5, 4)),
        (TorchTrainer(Tied, EACH), nn.Sequential()),
        (NumpyTrainer(), linear()),
        (TorchTrainer(linear, EACH), NumpyTrainer()),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_a_model_of_another_module_is_refused_and_changes_nothing(made_by, into, tmp_path: Path):
    layout, model = begin(made_by)
    before = {name: tensor.clone() for name, tensor in into.state_dict().items()} if isinstance(into, nn.Module) else {}
    with pytest.raises(LayoutError) as failure:
        load_model_of(layout, model, into, tmp_path)
    assert failure.value.do
    assert all(torch.equal(into.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_regressors_model_has_no_label_set():
    layout, model = begin(TorchTrainer(lambda: nn.Linear(5, 1), nn.MSELoss()), NUMBERS)
    assert labels_of(model) is None
    assert [item.name for item in layout.leaves] == ["weight", "bias"]
