"""The small convolutional network of the model zoo of Unterthiner et al. (2020)."""

from typing import Literal, get_args

from torch import Tensor, nn

from metaprune_pl.errors import NetworkError

Activation = Literal["relu", "tanh"]
"""What follows each convolution."""


class SmallCNN(nn.Module):
    """Three 3x3 convolutions of stride 2 without padding, the mean over the map, one linear layer.

    With 16 channels, one input channel and 10 classes it has 4,970 parameters.

    Args:
        width: Channels of each convolution.
        activation: What follows each convolution.
        dropout: Share of channels that each activation loses in training.
        num_classes: Number of classes K.
        in_channels: Channels C of the images.

    Shapes: [B, C, H, W] -> [B, K], with H and W at least 15.

    Raises:
        NetworkError: A size is below 1, the dropout is no share, or the activation is unknown.
    """

    input_size = (1, 32, 32)

    def __init__(
        self,
        *,
        width: int = 16,
        activation: Activation = "relu",
        dropout: float = 0.0,
        num_classes: int = 10,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        if min(width, num_classes, in_channels) < 1:
            raise NetworkError("small_cnn: width, num_classes and in_channels must be at least 1.")
        if activation not in get_args(Activation):
            raise NetworkError(f"small_cnn: activation is 'relu' or 'tanh', not '{activation}'.")
        if not 0 <= dropout < 1:
            raise NetworkError(f"small_cnn: dropout is from 0 to below 1, not {dropout}.")
        layers: list[nn.Module] = []
        for inputs in (in_channels, width, width):
            layers += [
                nn.Conv2d(inputs, width, 3, stride=2),
                nn.ReLU() if activation == "relu" else nn.Tanh(),
                nn.Dropout(dropout),
            ]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        return self.classifier(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]
