"""What a trace has collected so far: groups and connections under provisional node indices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from metaprune_pl.graphs.constraints import (
    Attention,
    AttentionScale,
    Extent,
    Follower,
    Product,
    Use,
)
from metaprune_pl.graphs.labels import Parameter, shrink, varying
from metaprune_pl.graphs.masked import Mixing
from metaprune_pl.graphs.weight_graph import Connection, Followed


@dataclass
class _Group:
    name: str
    start: int
    size: int
    slots: dict[str, str]
    depth: int
    absorbed_by: "_Group | None" = None


@dataclass
class GraphBuilder:
    """Collects groups and connections: `finished` gives the graph at the end.

    Of neurons that zeros are `padded` to, an attribute says how many they are, or all stay.

    A shortcut layer that ends in an addition is absorbed by the main branch: its connection and its
    slots (as `shortcut_...`) go to the main branch's nodes, as in the paper (section 4.1).
    """

    groups: list[_Group] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    fixed: list[int] = field(default_factory=list)
    ties: list[Tensor] = field(default_factory=list)
    mixed: list[Tensor] = field(default_factory=list)
    several: list[Tensor] = field(default_factory=list)
    unmasked: list[Tensor] = field(default_factory=list)
    lengths: dict[str, str] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)
    followers: list[Follower] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    extents: list[Extent] = field(default_factory=list)
    padded: list[Extent] = field(default_factory=list)
    equals: list[Tensor] = field(default_factory=list)
    named: list[Tensor] = field(default_factory=list)
    heads: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    attentions: list[Attention] = field(default_factory=list)
    scales: list[AttentionScale] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    whole: set[str] = field(default_factory=set)
    unfollowed: list[str] = field(default_factory=list)
    followed: list[Followed] = field(default_factory=list)
    mixing: dict[torch.fx.Node, Mixing] = field(default_factory=dict)

    def mark(self) -> dict[str, int]:
        """Return where things are, for `back_to`."""
        return {name: len(value) for name, value in vars(self).items() if isinstance(value, list)}

    def back_to(self, mark: dict[str, int]) -> None:
        """Forget what was added since."""
        for name, length in mark.items():
            del getattr(self, name)[length:]

    def new_input(self, size: int) -> Tensor:
        """Add the channels of an input, [size]."""
        _, nodes = self.new_group("input", size)
        self.inputs.append(nodes)
        return nodes

    def new_group(self, name: str, size: int, *, depth: int = 0) -> tuple[str, Tensor]:
        """Add neurons and return the group's unique name and their node numbers, [size]."""
        taken = {group.name for group in self.groups}
        unique = name
        suffix = 2
        while unique in taken:
            unique = f"{name}:{suffix}"
            suffix += 1
        start = self.groups[-1].start + self.groups[-1].size if self.groups else 0
        self.groups.append(_Group(unique, start, size, {}, depth))
        return unique, torch.arange(start, start + size)

    def group(self, name: str) -> _Group:
        """Return the group of a name."""
        return next(group for group in self.groups if group.name == name)

    def owner_of(self, nodes: Tensor) -> str | None:
        """Return the name of the group whose nodes these are, all of them in order."""
        for group in self.groups:
            if torch.equal(nodes, torch.arange(group.start, group.start + group.size)):
                return group.name
        return None

    def filled_by(self, parameters: set[str]) -> Tensor | None:
        """Return the nodes whose slots these parameters fill, [K]."""
        for group in self.groups:
            if parameters & set(group.slots.values()):
                return torch.arange(group.start, group.start + group.size)
        return None

    def depth(self, nodes: Tensor) -> int:
        """Return the largest number of layers between the input and any of the nodes."""
        present = nodes[nodes >= 0]
        starts = torch.tensor([group.start for group in self.groups])
        owners = torch.unique(torch.searchsorted(starts, present, right=True) - 1).tolist()
        return max((self.groups[owner].depth for owner in owners), default=0)

    def connect(self, connection: Connection) -> None:
        """Add a connection."""
        self.connections.append(connection)

    def connect_identity(self, name: str, source: Tensor, target: Tensor) -> None:
        """Connect nodes one to one, [K] and [K]; a source of -1 (padding) has no edge."""
        present = source >= 0
        self.connect(
            Connection(
                name=name,
                parameter=None,
                target=target[present][:, None],
                source=source[present][:, None],
            )
        )

    def tie(self, nodes: Tensor) -> None:
        """Keep as many of each row: nodes [rows, columns] of one column go together."""
        first = nodes[:1].expand_as(nodes)
        self.ties.append(torch.stack([first.flatten(), nodes.flatten()]))

    def reuse(self, parameter: str, known: Tensor, nodes: Tensor) -> None:
        """Tie neurons [K] that meet a parameter to those that have met it before, [K]."""
        self.tie(torch.stack([known, nodes]))
        apart = known != nodes
        self.followed.append(
            Followed(
                nodes=torch.cat([known[apart], nodes[apart]]),
                operator=f"another use of '{parameter}'",
                module="",
                keeps=frozenset(),
            )
        )

    def use(self, weight: Parameter) -> None:
        """Note what a layer multiplies its inputs with."""
        assert weight.node is not None
        order = None if weight.in_order else weight.elements.flatten()
        use = Use(
            parameter=weight.name,
            node=weight.node,
            order=order,
            companions=tuple(companion.name for companion in weight.companions),
        )
        self.uses.append(use)

    def attend(self, module: str, heads: int, *parts: Tensor) -> None:
        """Note attention: queries and keys, then values, or all at once; heads in order."""
        rows = tuple(part.reshape(heads, -1) for part in parts)
        if len(parts) == 1:  # values of the scores that were last met here
            here = [i for i, known in enumerate(self.attentions) if known.module == module]
            if here and len(self.attentions[here[-1]].parts) == 2:
                before = self.attentions[here[-1]]
                self.attentions[here[-1]] = replace(before, parts=(*before.parts, *rows))
        else:
            self.attentions.append(Attention(module=module, parts=rows))

    def count(self, module: str, *parts: Tensor) -> None:
        """Note that a forward pass names how many neurons there are in each part."""
        flat = tuple(part.flatten() for part in parts)
        self.extents.append(Extent(module=module, parts=flat))

    def as_wide_as_input(self, nodes: Tensor) -> list[Tensor]:
        """Return pairs of nodes, [K], and of what the layers read that give them, where as many."""
        first = int(nodes[0])
        return [
            torch.stack([layer.source.flatten(), nodes])
            for layer in self.connections
            if layer.parameter is not None and layer.source.numel() == len(nodes)
            if int(layer.target[0, 0]) <= first <= int(layer.target[-1, -1])
            if bool(torch.isin(nodes, layer.target).all())
        ]

    def add_names(self, modules: Mapping[str, object]) -> None:
        """Find the attributes that count neurons, and tie neurons that the same one counts."""
        padded = [extent.named(modules[extent.module]) for extent in self.padded]
        for extent in padded:
            if not extent.names:
                self.fix(extent.parts[0])
        self.extents = [extent.named(modules[extent.module]) for extent in self.extents]
        self.extents += [extent for extent in padded if extent.names]
        counted: dict[tuple[str, str], Tensor] = {}
        for extent in self.extents:
            (nodes, *others) = extent.parts
            for name in () if others else extent.names:
                first = counted.setdefault((extent.module, name), nodes)
                pairs = torch.stack([first, nodes])
                self.ties.append(pairs[:, (pairs >= 0).all(0)])

    def fix(self, nodes: Tensor) -> None:
        """Keep neurons: something counts on how many they are."""
        self.fixed += nodes[nodes >= 0].flatten().tolist()

    def follow(
        self,
        parameter: str,
        shape: Sequence[int],
        index: Tensor,
        nodes: Tensor,
    ) -> None:
        """Note which dimension of a parameter outside the graph belongs to neurons.

        Where none does, neurons stay.

        Args:
            parameter: Name of the parameter.
            shape: Its shape.
            index: Which of its elements meets each element of an activation, any shape.
            nodes: The node of each element of the activation, the same shape.
        """
        if not varying(shrink(index)) & varying(shrink(nodes)):
            return  # the same for all neurons
        index = index.flatten()
        nodes = nodes.flatten()
        coordinates = torch.unravel_index(index, list(shape))
        # first without, then with indices that meet several neurons: those of all heads
        for shared in (False, True):
            for dim, coordinate in enumerate(coordinates):
                of_index = torch.full((shape[dim],), -1).scatter(0, coordinate, nodes)
                first = of_index[coordinate]
                fits = torch.equal(first, nodes)
                if shared:
                    none = torch.full((int(nodes.max()) + 2,), -1)
                    highest = none.scatter(0, nodes + 1, coordinate)
                    fits = torch.equal(highest[nodes + 1], coordinate)
                if shape[dim] > 1 and bool((of_index >= 0).any()) and fits:
                    if shared:
                        pairs = torch.stack([first, nodes])[:, nodes >= 0]
                        self.ties.append(pairs.unique(dim=1))
                    self._add_follower(Follower(parameter=parameter, dim=dim, nodes=of_index))
                    return
        self.fix(nodes)

    def _add_follower(self, follower: Follower) -> None:
        for index, known in enumerate(self.followers):
            if (known.parameter, known.dim) == (follower.parameter, follower.dim):
                # it meets the neurons of two layers, which go together, or of one in parts
                both = torch.stack([known.nodes, follower.nodes])
                self.reuse(known.parameter, *both[:, (both >= 0).all(0)])
                self.followers[index] = replace(known, nodes=both.amax(0))
                return
        self.followers.append(follower)

    def can_absorb(self, main: str, shortcut: str) -> bool:
        """Whether the shortcut's parameters find free slots on the main branch's nodes."""
        own = self.group(main)
        other = self.group(shortcut)
        slots = (*own.slots, *other.slots)
        if own.size != other.size or any(slot.startswith("shortcut_") for slot in slots):
            return False
        first = other.start
        last = other.start + other.size
        ends_here = [c for c in self.connections if first <= int(c.target.flatten()[0]) < last]
        return all(connection.parameter is not None for connection in ends_here)

    def absorb(self, main: str, shortcut: str) -> None:
        """Move the shortcut's connections and slots to the main branch's nodes."""
        own = self.group(main)
        other = self.group(shortcut)
        for slot, parameter in other.slots.items():
            own.slots[f"shortcut_{slot}"] = parameter
        other.absorbed_by = own
