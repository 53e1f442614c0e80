"""What a module holds, read without calling it, and whether that is all that a call would do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn


def plain(module: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Whether calling the module is no more than `kind.forward`: it is no wrapper around one
    (adapters), it has no hooks (offloading, sharding, pruning, someone who listens), and its
    forward is not replaced. True where there is no module."""
    return module is None or (
        isinstance(module, kind)
        and type(module).forward is kind.forward
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not module._backward_hooks
        and not module._backward_pre_hooks
        and "forward" not in module.__dict__
    )


def untouched(modules: Iterable[nn.Module]) -> bool:
    """Whether none of them has hooks or a forward of its own."""
    for module in modules:
        if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
            return False
    return True


def held(module: nn.Module | None, name: str) -> Tensor | None:
    """`module.name`, or None where there is no module. As an attribute, a parameter takes five
    times as long, and at one token a small FFN is no more than a few microseconds of work."""
    if module is None:
        return None
    parameters = module._parameters
    # a parametrization or pruning takes the parameter away and leaves an attribute
    return parameters[name] if name in parameters else getattr(module, name)


def all_held(module: nn.Module | None, names: Sequence[str]) -> list[Tensor | None]:
    """`held`, of several names."""
    if module is None:
        return [None] * len(names)
    parameters = module._parameters
    return [parameters[n] if n in parameters else getattr(module, n) for n in names]


def there(module: nn.Module, name: str) -> Tensor:
    """`held`, of what is never None."""
    tensor = held(module, name)
    assert tensor is not None
    return tensor


def within(module: nn.Module, name: str) -> nn.Module | None:
    """The module `module.name`, or None."""
    return module._modules.get(name)
