"""VGG for small images (Simonyan and Zisserman, 2015), with batch norm and one linear layer."""

from torch import Tensor, nn

from metaprune_pl.errors import NetworkError

BLOCKS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
WIDTHS = (1, 2, 4, 8, 8)


class CifarVGG(nn.Module):
    """VGG for 32x32 images as in the paper's experiments.

    Convolutions with bias, batch norm, the mean over the map.

    The resolution is halved after each of the first three blocks.

    Args:
        depth: Number of weighted layers: 11, 13, 16 or 19.
        width: Channels of the first block; the others have up to eight times as many.
        num_classes: Number of classes K.
        in_channels: Channels C of the images.

    Shapes: [B, C, H, W] -> [B, K].

    Raises:
        NetworkError: There is no such depth, or a size is below 1.
    """

    input_size = (3, 32, 32)

    def __init__(
        self, *, depth: int = 19, width: int = 64, num_classes: int = 100, in_channels: int = 3
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise NetworkError(f"cifar_vgg: there is no depth {depth}. Take 11, 13, 16 or 19.")
        if min(width, num_classes, in_channels) < 1:
            raise NetworkError("cifar_vgg: width, num_classes and in_channels must be at least 1.")
        layers: list[nn.Module] = []
        channels = in_channels
        for block, (count, factor) in enumerate(zip(BLOCKS[depth], WIDTHS, strict=True)):
            outputs = factor * width
            for _ in range(count):
                layers += [
                    nn.Conv2d(channels, outputs, 3, padding=1),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(),
                ]
                channels = outputs
            if block < 3:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        features = self.features(x)
        return self.classifier(features.mean((2, 3)))  # type: ignore[no-any-return]
