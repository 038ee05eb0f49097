"""A module made ready for many trainings: its parameters stand in one vector, and one task leaves the next no trace."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from lycia.core.layout import Layout, Leaf, Model, narrow
from lycia.errors import TrainingError
from lycia.trainers.torch import modules
from lycia.trainers.torch.modules import BESIDE, SCHEMA, Masks


class Replica:
    """A module whose trained and local parameters are views into one flat float32 vector.

    A parameter that is stored otherwise, such as in bfloat16, has its number in the vector as well: steps are added up
    there, in float32, and `narrow` hands them down.

    What the module keeps beside its numbers is as it was built before each task: attributes, and the content of lists,
    dicts, sets, arrays and tensors among them, hooks and submodules too. What an object of another kind keeps in
    itself stays as it has become.

    Attributes:
      vector: (size,) float32, the parameters of the trained segment and then those of the local one.
      gradient: of the same shape.
      trained: how many numbers of both belong to the trained segment.
      parameters: of the module, in the order of the vector.
      views, gradients: where each of them stands in both.
      is_narrow: whether any of them is not stored as float32.
    """

    def __init__(self, module: nn.Module, masks: Masks, device: torch.device) -> None:
        self.module = module.to(device)
        self.leaves = modules.leaves_of(module, masks)
        self._layout = Layout(self.leaves)
        self._statistics, self._local = (list(self._layout.places(name)) for name in ("statistics", "local"))
        self._frozen = [leaf for leaf in self.leaves if leaf.segment == "frozen"]
        self._frozen_now: dict[str, np.ndarray] = {}
        self.trained = self._layout.size("trained")
        state = module.state_dict(keep_vars=True)
        moving = [leaf for segment in ("trained", "local") for leaf, _ in self._layout.places(segment)]
        self._flatten({leaf: state[leaf.name] for leaf in moving if isinstance(state[leaf.name], nn.Parameter)})
        self._remember({leaf.name: state[leaf.name] for leaf in self.leaves})

    def load(self, layout: Layout, model: Model) -> None:
        """Put a model's numbers in, and forget all that was there.

        Raises: TrainingError, if it is a model of another module.
        """
        self._check(layout)
        for held, first in self._contents:
            held.clear()
            (held.update if isinstance(held, (dict, set)) else held.extend)(first)
        for own, needed in self._needing:
            own.requires_grad_(needed)
        for _, parameter, view in self._astray():
            parameter.data = view
        for array, values in self._arrays:
            np.copyto(array, values)
        with torch.no_grad():
            for tensor, start in self._unsaved:
                tensor.copy_(start)
            self.vector[: self.trained].copy_(modules.tensor_of(model.trained))
            for leaf, place in self._local:
                self._tensor(leaf).copy_(modules.tensor_of(model.local[place]).view(leaf.shape))
            for leaf, place in self._statistics:
                self._fill(leaf, narrow(model.statistics[place], leaf.dtype))
            for leaf in self._frozen:
                if self._frozen_now.get(leaf.name) is not model.frozen[leaf.name]:
                    self._fill(leaf, model.frozen[leaf.name])
                    if leaf.name not in self._buffers:  # a frozen buffer may move while the module trains
                        self._frozen_now[leaf.name] = model.frozen[leaf.name]
        self.narrow()
        self.forget_gradients()

    def result(self, asked: Model) -> Model:
        """The numbers that are in the module now, as the model that `asked` has become.

        Raises: TrainingError, if a parameter has left its place, or a buffer has changed its shape.
        """
        astray = [leaf.name for leaf, _, _ in self._astray()]
        if astray:
            raise TrainingError(
                f"the module has put other memory under {', '.join(astray[:8])} while it trained.",
                why="parameters are trained where they stand, so what stands elsewhere is not part of the result.",
                do="change parameters in place, with parameter.copy_(…) under torch.no_grad(), and not by assigning.",
            )
        return replace(
            asked,
            trained=self.vector[: self.trained].to("cpu", copy=True).numpy(),
            statistics=self._gathered(self._statistics, np.zeros(asked.statistics.shape, np.float64)),
            local=self._gathered(self._local, np.zeros(asked.local.shape, np.float32)),
        )

    def gather_gradients(self) -> None:
        """Write the parameters' gradients into the vector: zeros for one that the loss does not reach."""
        places, gradients = [], []
        for place, parameter in zip(self.gradients, self.parameters, strict=True):
            gradient = parameter.grad
            if gradient is None:
                place.zero_()
            else:
                places.append(place)
                gradients.append(gradient.to_dense() if gradient.is_sparse else gradient)
        torch._foreach_copy_(places, gradients)

    def forget_gradients(self) -> None:
        """Let the next gradients begin at nothing."""
        for parameter in self.parameters:
            parameter.grad = None

    def narrow(self) -> None:
        """Hand the numbers in the vector to the parameters that are no views of it."""
        if self.is_narrow:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self.views)

    def _flatten(self, tensors: dict[Leaf, torch.Tensor]) -> None:
        self._moving, self.parameters = list(tensors), list(tensors.values())
        sizes = [leaf.size for leaf in tensors]
        self.vector = torch.zeros(sum(sizes), dtype=torch.float32, device=next(iter(tensors.values())).device)
        self.gradient = torch.zeros_like(self.vector)
        self.views, self.gradients = (
            [piece.view(leaf.shape) for piece, leaf in zip(torch.split(flat, sizes), tensors, strict=True)]
            for flat in (self.vector, self.gradient)
        )
        self.is_narrow = any(leaf.dtype != "float32" for leaf in tensors)
        for _, parameter, view in self._astray():
            parameter.data = view

    def _astray(self) -> list[tuple[Leaf, torch.Tensor, torch.Tensor]]:
        """The parameters that should be views of the vector, and are not."""
        return [
            (leaf, parameter, view)
            for leaf, parameter, view in zip(self._moving, self.parameters, self.views, strict=True)
            if leaf.dtype == "float32" and parameter.data_ptr() != view.data_ptr()
        ]

    def _remember(self, tensors: dict[str, torch.Tensor]) -> None:
        """What the module was when it was built, beside the numbers that a model brings."""
        parts = [part for part in self.module.modules() if hasattr(part._buffers, "clear")]  # scripted ones keep theirs
        kept = _kept_in([vars(part) for part in parts])
        self._contents = [
            (item, dict(item) if isinstance(item, dict) else list(item))
            for item in kept
            if isinstance(item, (dict, set, list, deque))
        ]
        self._arrays = [(item, item.copy()) for item in kept if isinstance(item, np.ndarray) and item.flags.writeable]
        self._needing = [(parameter, parameter.requires_grad) for parameter in self.module.parameters()]
        names = {id(tensor): name for name, tensor in tensors.items()}
        self._buffers: dict[str, tuple[dict[str, Any], str]] = {
            names[id(buffer)]: (part._buffers, key)
            for part in parts
            for key, buffer in part._buffers.items()
            if id(buffer) in names
        }
        beside = [
            item for item in kept if isinstance(item, torch.Tensor) and id(item) not in names and _may_change(item)
        ]
        self._unsaved = [(tensor, tensor.detach().clone()) for tensor in beside]
        self._fixed = {**tensors, **dict(zip((names[id(item)] for item in self.parameters), self.views, strict=True))}

    def _tensor(self, leaf: Leaf) -> torch.Tensor:
        if leaf.name in self._buffers:  # looked up every time: a module may put another tensor in its place
            buffers, key = self._buffers[leaf.name]
            found: torch.Tensor = buffers[key]
            return found
        return self._fixed[leaf.name]

    def _fill(self, leaf: Leaf, array: np.ndarray) -> None:
        self._tensor(leaf).copy_(modules.tensor_of(array, leaf.dtype).view(leaf.shape))

    def _gathered(self, places: list[tuple[Leaf, slice]], into: np.ndarray) -> np.ndarray:
        for leaf, place in places:
            tensor = self._tensor(leaf)
            if tuple(tensor.shape) != leaf.shape:
                raise TrainingError(
                    f"{leaf.name!r} has shape {tuple(tensor.shape)} after training, and had {leaf.shape} before.",
                    why="a model keeps its shapes for a whole run.",
                    do="keep what changes its shape in a plain attribute, or register it with persistent=False.",
                )
            into[place] = tensor.detach().reshape(-1).cpu().double().numpy()
        return into

    def _check(self, layout: Layout) -> None:
        if layout is self._layout:
            return
        given = tuple(leaf for leaf in layout.leaves if leaf.name not in BESIDE)
        if given != self.leaves:
            found = {leaf.name: (leaf.shape, leaf.dtype) for leaf in self.leaves}
            differences = list(Layout(given).differences(found)) or ["their segments, aliases or order differ"]
            raise TrainingError(
                f"build_model gives another model than the run's: {'; '.join(differences[:8])}.",
                why="the module must have the same tensors at every node, and every time that it is built.",
                do="let build_model depend on nothing but its argument; start a new run for a changed model.",
            )
        self._layout = layout


def _may_change(tensor: torch.Tensor) -> bool:
    """Whether it can be written to in place: not one of inference mode, nor one that shows a number at many places."""
    strides = tensor.stride() if tensor.layout == torch.strided else ()
    expanded = any(size > 1 and not stride for size, stride in zip(tensor.shape, strides, strict=False))
    return not tensor.is_inference() and not expanded


def _kept_in(things: Sequence[Any]) -> list[Any]:
    """All of these, and what dicts, lists and deques among them hold, each once."""
    found = {id(thing): thing for thing in things}
    coming = list(found.values())
    while coming:
        held = coming.pop()
        inside = held.values() if isinstance(held, dict) else held if isinstance(held, (list, deque)) else ()
        fresh = {id(item): item for item in inside if id(item) not in found}
        found |= fresh
        coming += fresh.values()
    return list(found.values())


Pool = list[tuple[object, Replica]]
"""Replicas that nobody uses at the moment, by what they were built for."""


@contextmanager
def borrowed(
    pool: Pool, build: Callable[[], nn.Module], masks: Masks, device: torch.device, layout: Layout, model: Model
) -> Iterator[Replica]:
    """A replica with the model in it, out of the pool or newly built; it goes back there afterwards.

    Raises: TrainingError, if the model is not one of its module.
    """
    schema = model.frozen.get(SCHEMA)
    kind = (device, None if schema is None else schema.tobytes())
    place = next((place for place, (known, _) in enumerate(pool) if known == kind), None)
    replica = Replica(build(), masks, device) if place is None else pool.pop(place)[1]
    try:
        replica.load(layout, model)
        yield replica
    finally:
        replica.forget_gradients()
        pool.append((kind, replica))
