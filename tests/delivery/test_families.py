"""Networks of ten families give as ONNX and pt2 files what they give in PyTorch, from JPEGs on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metaprune_pl.delivery import FORMATS, Facts
from metaprune_pl.delivery.deliver import deliver
from metaprune_pl.delivery.images import read_images
from metaprune_pl.networks import create_network
from metaprune_pl.networks.preprocessing import Preprocessing

FAMILIES = {
    "cifar_vgg": 32,
    "timm/test_byobnet": 64,
    "timm/test_convnext": 64,
    "timm/test_efficientnet": 64,
    "timm/test_mambaout": 64,
    "timm/test_nfnet": 64,
    "timm/test_resnet": 64,
    "timm/test_vit": 160,
    "torchvision/mobilenet_v3_small": 64,
    "torchvision/squeezenet1_1": 64,
}
"""A network of each family to the side of its images."""
PREPROCESSING = Preprocessing(
    mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), classes=["cat", "dog", "eel"], crop=0.9
)
JPEGS = 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(JPEGS):
        coarse = np.random.default_rng(index).integers(0, 256, (3, 4, 3), np.uint8)
        image = Image.fromarray(coarse).resize((90 + index, 70), Image.Resampling.BICUBIC)
        image.save(folder / f"{index}.jpg", quality=95)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_delivered_as_it_is(name: str, photos: Path, tmp_path: Path) -> None:
    side = FAMILIES[name]
    network = create_network(name, seed=0, num_classes=3).eval()
    facts = Facts(input_shape=(3, side, side), preprocessing=PREPROCESSING)
    with torch.no_grad():
        own = network(read_images(photos, facts, JPEGS))
    for kind in (FORMATS["onnx"], FORMATS["pt2"]):
        file = tmp_path / f"network{kind.suffix}"
        difference = deliver(network, facts, kind, file, images=photos).difference
        assert difference is not None and difference <= 1e-4
        run, told = kind.load(file, 1)
        assert told == facts
        scores = run(read_images(photos, told, JPEGS))
        classes = ((s - own.mean(0)).argmax(1).tolist() for s in (scores, own))
        assert next(classes) == next(classes)
