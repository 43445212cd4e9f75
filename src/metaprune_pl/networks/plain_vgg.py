"""VGG networks for small images without batch norm (Simonyan and Zisserman, 2015)."""

from torch import Tensor, nn

from metaprune_pl.errors import NetworkError
from metaprune_pl.networks.cifar_vgg import BLOCKS, WIDTHS


class PlainVGG(nn.Module):
    """VGG for 32x32 images as it was published: no norms, halved after each block.

    Two hidden linear layers with dropout follow. Parameters have the names of a common public
    implementation (github.com/chengyangfu/pytorch-vgg-cifar10).

    Args:
        depth: Number of weighted layers: 11, 13, 16 or 19.
        width: Channels of the first block; the others have up to eight times as many.
        num_classes: Number of classes K.
        in_channels: Channels C of the images.

    Shapes: [B, C, 32, 32] -> [B, K].

    Raises:
        NetworkError: There is no such depth, or a size is below 1.
    """

    input_size = (3, 32, 32)

    def __init__(
        self, *, depth: int = 19, width: int = 64, num_classes: int = 10, in_channels: int = 3
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise NetworkError(f"plain_vgg: there is no depth {depth}. Take 11, 13, 16 or 19.")
        if min(width, num_classes, in_channels) < 1:
            raise NetworkError("plain_vgg: width, num_classes and in_channels must be at least 1.")
        layers: list[nn.Module] = []
        channels = in_channels
        for count, factor in zip(BLOCKS[depth], WIDTHS, strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(channels, factor * width, 3, padding=1), nn.ReLU()]
                channels = factor * width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]
