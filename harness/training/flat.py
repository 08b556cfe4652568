"""The parameters of a network in one buffer, so that an optimizer or an average is a few operations on one tensor instead of on hundreds.

The operations work element by element, so the numbers are those of the separate tensors bit for bit (not for Adam: torch's fused kernel for
CPUs rounds the last elements of a tensor differently). Checkpoints keep the separate tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 16
"""Elements to a multiple of which each parameter starts: 64 bytes of float32, as if it had an allocation of its own."""


class FlatParameters:
    """Moves parameters, all of one dtype and on one device, into one buffer, of which they become views with their shapes and strides.

    Values may be changed in place from either side. Whoever replaces a parameter's data (module.to(device)) ends the connection.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = list(parameters)
        self._starts, end = [], 0
        for parameter in self.parameters:
            self._starts.append(end)
            end += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
        first = self.parameters[0]
        self.buffer = torch.zeros(end, dtype=first.dtype, device=first.device)
        """All values; (n,), zero between the parameters."""
        with torch.no_grad():
            for parameter, view in zip(self.parameters, self.views(self.buffer), strict=True):
                view.copy_(parameter)
                parameter.data = view

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The part of a buffer like `self.buffer` that belongs to each parameter, in the parameter's shape."""
        places = zip(self.parameters, self._starts, strict=True)
        return [buffer.as_strided(parameter.shape, parameter.stride(), start) for parameter, start in places]

    def joined(self, tensors: Iterable[Tensor | None]) -> Tensor:
        """A new buffer with one tensor for each parameter, of its shape; zero for None."""
        buffer = torch.zeros_like(self.buffer)
        pairs = [(view, tensor) for view, tensor in zip(self.views(buffer), tensors, strict=True) if tensor is not None]
        with torch.no_grad():
            torch._foreach_copy_([view for view, _ in pairs], [tensor for _, tensor in pairs])
        return buffer


class FlatOptimizer:
    """An optimizer that updates all parameters as one tensor. Its state dict is that of the same optimizer over the separate parameters.

    build: from a list of tensors to a torch optimizer whose update is element by element.
    """

    def __init__(self, flat: FlatParameters, build: Callable[[list[Tensor]], torch.optim.Optimizer]) -> None:
        self.flat, self.whole = flat, build([flat.buffer])
        self.gradient = flat.buffer.grad = torch.zeros_like(flat.buffer)
        self._gradients = flat.views(self.gradient)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The single group, with the settings; its parameter is the buffer."""
        return self.whole.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients; set_to_none: as in torch, instead of filling them with zeros."""
        for parameter in self.flat.parameters:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """One update by the parameters' gradients, which it forgets. A parameter without a gradient counts as one with gradient 0."""
        gradients = [parameter.grad for parameter in self.flat.parameters]
        if any(gradient is None for gradient in gradients):
            self.gradient.zero_()
        known = [(view, gradient) for view, gradient in zip(self._gradients, gradients, strict=True) if gradient is not None]
        torch._foreach_copy_([view for view, _ in known], [gradient for _, gradient in known])
        self.zero_grad()  # before the optimizer's temporary tensors, which may need the memory
        self.whole.step()

    def state_dict(self) -> dict[str, Any]:
        """State and settings by parameter, as torch.optim writes them; the tensors are views, which the next step changes."""
        whole = self.whole.state_dict()
        count = len(self.flat.parameters)
        state: dict[int, dict[str, Any]] = {}
        if moments := whole["state"].get(0):
            parts = {name: self._split(value) for name, value in moments.items()}
            state = {index: {name: values[index] for name, values in parts.items()} for index in range(count)}
        return {"state": state, "param_groups": [{**group, "params": list(range(count))} for group in whole["param_groups"]]}

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        """Takes the state and the settings of `state_dict`. Raises ValueError for another number of parameters."""
        count = len(self.flat.parameters)
        (group,) = stored["param_groups"]
        if len(group["params"]) != count:
            raise ValueError(f"the stored optimizer has {len(group['params'])} parameters, the network {count}")
        states = [stored["state"].get(index, {}) for index in range(count)]
        names = dict.fromkeys(name for state in states for name in state)
        moments = {name: self._join([state.get(name) for state in states]) for name in names}
        self.whole.load_state_dict({"state": {0: moments} if moments else {}, "param_groups": [{**group, "params": [0]}]})

    def _split(self, value: Any) -> list[Any]:
        """A moment by parameter; what has no shape of its own, as a count of steps, is the same for all."""
        if not isinstance(value, Tensor) or value.shape != self.flat.buffer.shape:
            return [value for _ in self.flat.parameters]
        return list(self.flat.views(value))

    def _join(self, values: list[Any]) -> Any:
        """The inverse of `_split`."""
        pairs = zip(values, self.flat.parameters, strict=True)
        if all(value is None or (isinstance(value, Tensor) and value.shape == parameter.shape) for value, parameter in pairs):
            return self.flat.joined(values)
        value = next(value for value in values if value is not None)
        return value.clone() if isinstance(value, Tensor) else value
