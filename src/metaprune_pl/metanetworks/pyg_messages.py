"""Message passing of torch_geometric, which takes a second to import."""

from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import MultiAggregation


class Messages(MessagePassing):
    """Equations (14), (15) and (18): products of factors and edges, aggregated four ways."""

    def __init__(self) -> None:
        super().__init__(aggr=MultiAggregation(["mean", "std", "max", "min"]))

    def forward(
        self, sender: Tensor, receiver: Tensor, edge_index: Tensor, edges: Tensor
    ) -> Tensor:
        """Return [N, 4 H] from two factors [N, H], [2, E] and [E, H]."""
        size = (sender.shape[0], sender.shape[0])
        return self.propagate(  # type: ignore[no-any-return]
            edge_index, sender=sender, receiver=receiver, edges=edges, size=size
        )

    def message(self, sender_j: Tensor, receiver_i: Tensor, edges: Tensor) -> Tensor:
        """One message along each edge, [E, H]."""
        return sender_j * receiver_i * edges
