"""What a module of PyTorch is as a federated model: its leaves, and its numbers in and out."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from lycia.core import training
from lycia.core.keys import Key
from lycia.core.layout import Layout, Leaf, Model, Segment
from lycia.core.normalising import SCALING
from lycia.data.schema import Schema
from lycia.errors import LayoutError, TrainingError
from lycia.trainers.examples import LABELS, known_schema, labels_leaf, scaling_leaf, scaling_of
from lycia.trainers.torch import machine

SCHEMA = "schema"
"""The leaf with the schema as JSON, for a module that is built from one: whoever opens the model can build it again."""

BESIDE = (LABELS, SCALING, SCHEMA)
"""Leaves of a model that are no tensors of its module."""

_BUILDING = Key(0).at("build")
_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class Masks:
    """Patterns of names, as fnmatch reads them: what is never trained, and what never leaves the node."""

    frozen: tuple[str, ...] = ()
    local: tuple[str, ...] = ()


def first_model(
    build_model: Callable[..., Any],
    masks: Masks,
    schema: training.Schema | None,
    key: Key,
    *,
    scaled: bool,
    threads: int,
) -> tuple[Layout, Model]:
    """The module as it is built from the key, with what goes beside it: label set, scaling, schema.

    Raises: TrainingError, if it cannot be federated, or if a schema is missing where one is needed.
    """
    with machine.alone(key, threads, torch.device("cpu")):
        module = _called(build_model, schema, masks)
    leaves, arrays = leaves_of(module, masks), arrays_of(module)
    beside = [labels_leaf(schema.labels)] if isinstance(schema, Schema) and schema.labels is not None else []
    if scaled:
        beside.append(scaling_leaf(known_schema(schema)))
    if _takes_schema(build_model):
        content = np.frombuffer(known_schema(schema).to_json().encode(), np.uint8)
        beside.append((Leaf(SCHEMA, content.shape, "uint8", "frozen"), content))
    layout = Layout((*leaves, *(leaf for leaf, _ in beside)))
    return layout, layout.model({**arrays, **{leaf.name: content for leaf, content in beside}})


def built_for(build_model: Callable[..., Any], masks: Masks, model: Model) -> nn.Module:
    """A module that the model's numbers may be put into; what it draws when it is built is always the same.

    Raises: TrainingError, if it cannot be built.
    """
    content = model.frozen.get(SCHEMA)
    with machine.alone(_BUILDING, 1, torch.device("cpu")):
        return _called(build_model, None if content is None else Schema.from_json(content.tobytes().decode()), masks)


def leaves_of(module: nn.Module, masks: Masks) -> tuple[Leaf, ...]:
    """The module's parameters and persistent buffers, in the order of its state_dict.

    Raises: TrainingError, if a mask names nothing or contradicts the other, or if the module cannot be federated.
    """
    names = _names_of(module)
    state = module.state_dict(keep_vars=True)
    taken = sorted({name for group in names for name in group} & set(BESIDE))
    if taken:
        raise TrainingError(
            f"a tensor of the module is called {', '.join(map(repr, taken))}.",
            why=f"a model keeps what goes beside the module under the names {', '.join(BESIDE)}.",
            do="rename the parameter or the buffer.",
        )
    _check_masks(masks, names)
    _check_memory({group[0]: state[group[0]] for group in names})
    leaves = tuple(_leaf(group, state[group[0]], masks) for group in names)
    if not any(leaf.segment == "trained" for leaf in leaves):
        raise TrainingError(
            f"the module {type(module).__name__} has no parameters to train together.",
            why="all that it has is frozen or local, or it has no parameters at all.",
            do="leave some parameters out of frozen=… and local=…, with requires_grad=True.",
        )
    return leaves


def arrays_of(module: nn.Module) -> dict[str, np.ndarray]:
    """The module's tensors by the first of their names, copied; bfloat16 as uint16 patterns."""
    state = module.state_dict(keep_vars=True)
    return {group[0]: array_of(state[group[0]]) for group in _names_of(module)}


def load_into(module: _Module, layout: Layout, model: Model) -> _Module:
    """Put a model's numbers into `module`; returns the same object. The leaves beside it are the caller's business.

    Raises: LayoutError, if the module has other tensors; it is left as it was.
    """
    own = Layout(tuple(leaf for leaf in layout.leaves if leaf.name not in BESIDE))
    state = module.state_dict(keep_vars=True)
    found = {name: (tuple(tensor.shape), dtype_name(tensor)) for name, tensor in state.items()}
    wanted = {leaf.name: (leaf.shape, leaf.dtype) for leaf in own.leaves}
    aliases = {alias for leaf in own.leaves for alias in leaf.aliases}
    differences = [
        *own.differences({name: (shape, wanted.get(name, ((), ""))[1]) for name, (shape, _) in found.items()}),
        *(f"{alias!r} is missing" for alias in sorted(aliases - found.keys())),
    ]
    if differences:
        raise LayoutError(
            f"the model cannot be put into {type(module).__name__}: {'; '.join(differences[:8])}"
            f"{'; …' if len(differences) > 8 else ''}.",
            why="the module has other tensors than the one that was trained.",
            do="build it as the app's build_model does, or read the arrays: load_model(path).",
        )
    arrays = layout.arrays(model)
    with torch.no_grad():
        for leaf in own.leaves:
            for name in (leaf.name, *leaf.aliases):
                state[name].copy_(tensor_of(arrays[leaf.name], leaf.dtype))
    return module


def taken_from(module: nn.Module, layout: Layout, asked: Model) -> Model:
    """The module's numbers, as the model that `asked` has become.

    Raises: TrainingError, if the module does not have its tensors any more.
    """
    try:
        model = layout.model({**asked.frozen, **arrays_of(module)})
    except LayoutError as error:
        raise TrainingError(
            error.what, why=error.why, do="leave names, shapes and types of the module alone."
        ) from None
    return replace(model, frozen=asked.frozen)


def predictor(build_model: Callable[..., Any], masks: Masks, layout: Layout, model: Model) -> nn.Module:
    """A module with the model in it, in eval mode; it scales its inputs first, if the model says so.

    Raises: LayoutError, if it is a model of another module.
    """
    module, known = load_into(built_for(build_model, masks, model), layout, model), scaling_of(model)
    if known is not None:
        module.register_forward_pre_hook(partial(_scale, torch.tensor(known[0]), torch.tensor(known[1])))
    return module.eval()


def dtype_name(tensor: torch.Tensor) -> str:
    """What NumPy and a layout call the tensor's dtype."""
    return str(tensor.dtype).removeprefix("torch.")


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """A copy of the tensor; bfloat16, which NumPy lacks, as uint16 patterns."""
    own = tensor.detach().to("cpu", copy=True).contiguous()
    array: np.ndarray = (own.view(torch.uint16) if own.dtype == torch.bfloat16 else own).numpy()
    return array


def tensor_of(array: np.ndarray, dtype: str = "") -> torch.Tensor:
    """The array as a tensor, without a copy where it may be written to; uint16 patterns as bfloat16 if `dtype` says so.

    Both share their memory then, so the tensor is only to be read.
    """
    whole = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    tensor = torch.from_numpy((whole if whole.flags.writeable else whole.copy()).reshape(array.shape))
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" and tensor.dtype == torch.uint16 else tensor


def _scale(offset: torch.Tensor, width: torch.Tensor, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    first, *others = inputs
    rows = (first.reshape(len(first), -1).float() - offset.to(first.device)) / width.to(first.device)
    return (rows.reshape(first.shape), *others)


def _called(build_model: Callable[..., Any], schema: training.Schema | None, masks: Masks) -> nn.Module:
    module = build_model(known_schema(schema)) if _takes_schema(build_model) else build_model()
    if not isinstance(module, nn.Module):
        raise TrainingError(
            f"build_model gave a {type(module).__name__}.",
            why="it builds the model, an nn.Module.",
            do="return the module; pass the function or the class itself, and not what it returns.",
        )
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if _matches(masks.frozen, (name,)):
            parameter.requires_grad_(False)
    return module


def _takes_schema(build_model: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(build_model).parameters.values()
    except (TypeError, ValueError):  # some built-in callables have no signature to look at
        return False
    ways = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [item.name for item in parameters if item.default is item.empty and item.kind not in ways]
    if len(needed) > 1:
        raise TrainingError(
            f"build_model needs the arguments {', '.join(needed)}.",
            why="it is called without arguments, or with the app's schema as its one argument.",
            do="give the others a value: TorchTrainer(partial(build_model, width=64), …).",
        )
    return bool(needed)


def _names_of(module: nn.Module) -> list[tuple[str, ...]]:
    """The names of each tensor of the module; a tied one has several."""
    groups: dict[int, tuple[str, ...]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor) or nn.parameter.is_lazy(tensor) or tensor.is_complex():
            kind = (
                f"is a {type(tensor).__name__}" if not isinstance(tensor, torch.Tensor)
                else "has no shape yet" if nn.parameter.is_lazy(tensor)
                else f"is complex ({dtype_name(tensor)})"
            )  # fmt: skip
            raise TrainingError(
                f"{name!r} of the module {kind}.",
                why="a federated model is made of tensors of real numbers, whose shapes are known when it is built.",
                do="run lazy modules once on an example in build_model; keep complex parameters as torch.view_as_real "
                "shows them, and other state in plain attributes.",
            )
        groups[id(tensor)] = (*groups.get(id(tensor), ()), name)
    return list(groups.values())


def _leaf(names: tuple[str, ...], tensor: torch.Tensor, masks: Masks) -> Leaf:
    is_parameter, is_float = isinstance(tensor, nn.Parameter), tensor.is_floating_point()
    segment: Segment
    if _matches(masks.frozen, names) or (is_parameter and not tensor.requires_grad):
        segment = "frozen"
    elif _matches(masks.local, names) and is_float:  # counters of a local layer are statistics like any other
        segment = "local"
    else:
        segment = "trained" if is_parameter else "statistics"
    return Leaf(names[0], tuple(tensor.shape), dtype_name(tensor), segment, names[1:])


def _matches(patterns: tuple[str, ...], names: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _check_masks(masks: Masks, groups: list[tuple[str, ...]]) -> None:
    names = [name for group in groups for name in group]
    for setting, patterns in (("frozen", masks.frozen), ("local", masks.local)):
        idle = [pattern for pattern in patterns if not _matches((pattern,), tuple(names))]
        if idle:
            raise TrainingError(
                f"{setting}=… names {', '.join(map(repr, idle))}, which no tensor of the module is called.",
                why=f"its tensors are {_some(names)}.",
                do="use these names, or patterns of them such as 'head.*'.",
            )
    both = [
        " = ".join(group) for group in groups if _matches(masks.frozen, group) and _matches(masks.local, group)
    ]  # fmt: skip
    if both:
        raise TrainingError(
            f"both frozen=… and local=… name {_some(both)}.",
            why="what is frozen is the same everywhere and never trained; what is local is trained by each node.",
            do="leave these names out of one of them; a tied tensor is one, under all of its names.",
        )


def _check_memory(tensors: Mapping[str, torch.Tensor]) -> None:
    for (first, _, end), (second, start, _) in pairwise(sorted(_extents(tensors), key=lambda extent: extent[1:])):
        if start < end:
            raise TrainingError(
                f"{first!r} and {second!r} share memory, and are not the same parameter.",
                why="a tied tensor is trained once, under all of its names; these would be told apart.",
                do="tie them as PyTorch does, by assigning the parameter: decoder.weight = encoder.weight.",
            )


def _extents(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, int, int]]:
    for name, tensor in tensors.items():
        if tensor.numel() and tensor.device.type == "cpu":
            spans = ((size - 1) * abs(stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
            start = tensor.data_ptr()
            yield name, start, start + (sum(spans) + 1) * tensor.element_size()


def _some(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
