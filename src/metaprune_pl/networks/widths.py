"""Cut the layers of a network to other widths, in place: what loading and pruning both need.

A layer's width stands in the shapes of its tensors, so a table of shapes describes a pruned network
completely.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm

from metaprune_pl.errors import StorageError

_LAYERS = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._NormBase,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.PReLU,
    nn.Embedding,
)
"""Layers whose width attributes follow from their tensors, where they have any."""


_GATES = {
    "RNN_TANH": 1,
    "RNN_RELU": 1,
    "GRU": 3,
    "LSTM": 4,
}
"""Rows of a recurrent layer's weights for each hidden neuron."""


def set_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace parameters and buffers by tensors of any width, and set width attributes to match.

    Args:
        network: Changed in place.
        tensors: Name to new value, for each parameter and buffer of the network.

    Raises:
        StorageError: A tensor is missing, unknown, or has other dimensions than the layer can take.
    """
    own = all_tensors(network)
    not_stored = own.keys() - network.state_dict().keys()
    tensors = {**{name: own[name] for name in not_stored}, **tensors}
    if missing := sorted(own.keys() ^ tensors.keys()):
        side = "lack" if missing[0] in own else "have besides"
        raise StorageError(
            f"the weights {side} '{missing[0]}' ({len(missing)} names differ): another network's "
            "file?"
        )
    shared: dict[int, nn.Parameter] = {}
    for name, old in own.items():
        path, _, leaf = name.rpartition(".")
        module = network.get_submodule(path)
        value = tensors[name]
        if value.dim() != old.dim():
            raise StorageError(
                f"'{name}' has {value.dim()} dimensions in the file and {old.dim()} in the network."
            )
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(value, requires_grad=old.requires_grad)
            module._parameters[leaf] = shared.setdefault(id(old), new)
        else:
            module._buffers[leaf] = value
    for module in network.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):  # its module keeps the weight that it computed
                hook(module, ())
        _match_attributes(module)
        if isinstance(module, nn.RNNBase):  # it keeps a list of its weights
            module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def _match_attributes(module: nn.Module) -> None:
    """Set the width attributes of one layer from the shapes of its tensors."""
    if isinstance(module, nn.modules.conv._ConvNd):
        before = module.in_channels if module.transposed else module.out_channels
        per_group = before // module.groups  # whole groups are removed, unless a file says more
        set_conv_groups(module, max(1, module.weight.shape[0] // per_group))
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.RNNBase):
        first = module._parameters["weight_ih_l0"]
        assert first is not None
        module.input_size = first.shape[1]
        module.hidden_size = first.shape[0] // _GATES[module.mode]
    elif isinstance(module, nn.RNNCellBase):
        module.hidden_size = module.weight_hh.shape[1]
        module.input_size = module.weight_ih.shape[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.shape[0]
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        channels = module.weight.shape[0]  # whole norm groups are removed
        module.num_groups = max(1, channels // (module.num_channels // module.num_groups))
        module.num_channels = channels
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        value = module.running_mean if module.weight is None else module.weight
        module.num_features = module.num_features if value is None else value.shape[0]


def set_conv_groups(module: nn.Module, groups: int) -> None:
    """Set the groups of a convolution, and its widths from the shape of its weight."""
    if isinstance(module, nn.modules.conv._ConvNd):
        module.groups = groups
        whole, per_group = module.weight.shape[:2]
        widths = (per_group * groups, whole)
        module.in_channels, module.out_channels = widths[::-1] if module.transposed else widths


def copy_network(network: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Return a deep copy, of networks too that keep a weight which they computed (weight norm)."""
    memo = {} if memo is None else memo
    for module in network.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(network, memo)


def all_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of a network by name, and the buffers that its `state_dict` leaves out."""
    return {
        **dict(network.named_buffers(remove_duplicate=False)),
        **network.state_dict(keep_vars=True),
    }


def widths_before_and_after(before: nn.Module, after: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the output channels of each layer of a network, and of it after pruning."""
    old, new = layer_widths(before), layer_widths(after)
    return {
        name.removesuffix(".weight"): (shape[0], new[name][0])
        for name, shape in old.items()
        if name.endswith("weight") and len(shape) > 1
    }


def put_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state that need not know the versions of the modules, as some modules insist on."""
    whole = network.state_dict()
    whole.update(state)
    network.load_state_dict(whole)


def own_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of a network with the tensors of a shared module once.

    `functional_call(..., tie_weights=False)` takes it; with the full state it would leave such a
    module changed.
    """
    modules = dict(network.named_modules(remove_duplicate=False))
    once: dict[tuple[int, str], tuple[str, Tensor]] = {}
    for name, value in network.state_dict().items():
        path, _, leaf = name.rpartition(".")
        key = (id(modules[path]), leaf)
        once.setdefault(key, (name, value))
    return dict(once.values())


def is_sizes(value: object) -> bool:
    """Whether an attribute is a whole number, or several of them."""
    if isinstance(value, list | tuple):
        return bool(value) and all(type(part) is int for part in value)
    return type(value) is int


Sizes = int | float | list[int]
"""What pruning may have set in a module: a width, several, or the scale of an attention."""


def _is_scale(name: str, value: object) -> bool:
    return type(value) is float and "scal" in name


def size_attributes(network: nn.Module) -> dict[str, dict[str, Sizes]]:
    """Return the numbers that modules keep as attributes, which pruning may have set.

    Path to name to value.
    """
    attributes = {}
    for path, module in network.named_modules():
        sizes: dict[str, Sizes] = {}
        for name, value in vars(module).items():
            if (is_sizes(value) or _is_scale(name, value)) and not name.startswith("_"):
                sizes[name] = list(value) if isinstance(value, list | tuple) else value
        has_tensors = next(module.parameters(recurse=False), None) is not None
        follow = isinstance(module, _LAYERS) and has_tensors  # from the shapes of the tensors
        if sizes and not follow and not isinstance(module, nn.Dropout):
            attributes[path] = sizes
        elif isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1:
            attributes[path] = {"groups": module.groups}
    return attributes


def set_attributes(network: nn.Module, attributes: Mapping[str, Mapping[str, Sizes]]) -> None:
    """Set what `size_attributes` returned of a network of the same kind.

    Raises:
        StorageError: The network has no such module, or the module no such attribute.
    """
    modules = dict(network.named_modules())
    for path, numbers in attributes.items():
        if path not in modules:
            raise StorageError(
                f"network.json names the module '{path}', which the network does not have."
            )
        for name, value in numbers.items():
            old = vars(modules[path]).get(name)
            known = is_sizes(old) or _is_scale(name, old)
            if not known or isinstance(old, list | tuple) != isinstance(value, list):
                raise StorageError(f"network.json sets '{name}' of '{path}', which is no size.")
            current = getattr(modules[path], name, None)
            kind = tuple if isinstance(current, tuple) else type(value)
            setattr(modules[path], name, kind(value))  # type: ignore[arg-type]
            if name == "groups" and isinstance(value, int):
                set_conv_groups(modules[path], value)


def is_unchanged(network: nn.Module, other: nn.Module) -> bool:
    """Whether a network of the same widths has the very weights and statistics of another."""
    tensors = other.state_dict()
    state = network.state_dict().items()
    return all(torch.equal(value, tensors[name].to(value.device)) for name, value in state)


def layer_widths(network: nn.Module) -> dict[str, list[int]]:
    """Return the shape of every parameter and buffer by name: the width of every layer."""
    return {name: list(value.shape) for name, value in all_tensors(network).items()}


def narrow_layers(before: nn.Module, after: nn.Module) -> str:
    """Name the layers, three at most, of whose output channels less than a tenth is left."""
    widths = layer_widths(after)
    shares = {
        name.removesuffix(".weight"): (widths[name][0], shape[0])
        for name, shape in layer_widths(before).items()
        if len(shape) > 1 and 10 * widths[name][0] < shape[0]
    }
    narrowest = sorted(shares, key=lambda name: shares[name][0] / shares[name][1])[:3]
    named = (f"'{name}' ({shares[name][0]} of {shares[name][1]} channels)" for name in narrowest)
    return ", ".join(named)
