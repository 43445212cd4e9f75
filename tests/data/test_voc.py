"""VOC 2007 as drawn by the tests: parts, boxes, mirroring, and what is missing or damaged."""

from pathlib import Path
from typing import Any

import pytest
import torch

from metaprune_pl.__main__ import main
from metaprune_pl.data import VOC
from metaprune_pl.data.voc import read_objects
from metaprune_pl.errors import ConfigError, DataError
from scenes import draw_voc

HERE = torch.device("cpu")


@pytest.fixture
def root(workdir: Path) -> Path:
    draw_voc(workdir, trainval=10, test=4)
    return workdir


def test_parts_are_disjoint_and_always_the_same(root: Path) -> None:
    data = VOC(root=str(root), validation_share=0.2, workers=0)
    parts = ("train", "validation", "test")
    assert [data.count(part) for part in parts] == [8, 2, 4]  # type: ignore[arg-type]
    names = [files for part in data.parts.values() for files in part]
    assert len(set(names)) == 14
    assert data.parts == VOC(root=str(root), validation_share=0.2, seed=5).parts


def test_boxes_hold_their_colours_mirrored_or_not(root: Path) -> None:
    """Inside each box is the colour of its object and outside none, also after mirroring."""
    data = VOC(root=str(root), batch_size=2, workers=0)
    seen = 0
    for batch in data.train_dataloader():
        for image, target in zip(batch.images, batch.targets, strict=True):
            inside = torch.zeros(image.shape[1:], dtype=torch.bool)
            for (left, top, right, bottom), label in zip(
                target["boxes"].int().tolist(), target["labels"], strict=True
            ):
                inside[top:bottom, left:right] = True
                middle = image[:, (top + bottom) // 2, (left + right) // 2].float()
                assert (
                    int(middle.argmax()) == {1: 0, 6: 2}[int(label)]
                )  # aeroplanes are red, buses are blue
            grey = (image.float() - 128).abs().amax(0) < 60
            assert float((grey == ~inside).float().mean()) > 0.97
            seen += 1
    straight = [image for batch in data.evaluation("train", HERE) for image in batch.images]
    served = [image / 255 for batch in data.train_dataloader() for image in batch.images]
    shown = sum(any(image.equal(other) for other in straight) for image in served)
    mirrored = sum(any(image.flip(2).equal(other) for other in straight) for image in served)
    assert (shown + mirrored, seen) == (len(served), len(served))
    assert min(shown, mirrored) > 0


def test_an_interrupted_epoch_goes_on(root: Path) -> None:
    whole = list(VOC(root=str(root), batch_size=2, workers=0).train_dataloader())
    first = VOC(root=str(root), batch_size=2, workers=0).train_dataloader()
    iterator = iter(first)
    next(iterator)
    second = VOC(root=str(root), batch_size=2, workers=0).train_dataloader()
    second.load_state_dict(first.state_dict())
    for one, other in zip(whole[1:], second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.images, other.images, strict=True))


def test_workers_read_the_same(root: Path) -> None:
    for one, other in zip(
        VOC(root=str(root), workers=0).train_dataloader(),
        VOC(root=str(root), workers=1).train_dataloader(),
        strict=True,
    ):
        assert all(torch.equal(a, b) for a, b in zip(one.images, other.images, strict=True))
        assert torch.equal(one.targets[0]["boxes"], other.targets[0]["boxes"])


def test_descriptions(workdir: Path) -> None:
    file = workdir / "a.xml"
    file.write_text(
        "<annotation><object><name>dog</name><difficult>1</difficult>"
        "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax>"
        "<ymax>4</ymax></bndbox></object></annotation>"
    )
    found = read_objects(file)
    assert found["boxes"].tolist() == [[0, 1, 3, 4]]
    assert (found["labels"].tolist(), found["iscrowd"].tolist()) == ([12], [1])
    file.write_text("<annotation></annotation>")
    assert read_objects(file)["boxes"].shape == (0, 4)
    for wrong in ("<annotation>", "<annotation><object><name>unicorn</name></object></annotation>"):
        file.write_text(wrong)
        with pytest.raises(DataError, match=r"cannot read the objects in .*a\.xml"):
            read_objects(file)
    with pytest.raises(DataError, match=r"cannot read the objects in .*b\.xml"):
        read_objects(workdir / "b.xml")


def test_missing_data_are_one_message(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "detect",
                "--data=VOC",
                "--trainer.accelerator=cpu",
                "--detection.arguments={head_width: 8}",
            ]
        )
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert "error: no VOC 2007 in 'datasets'" in error and "data.init_args.download" in error
    assert not Path("runs/unnamed").exists()


def test_a_half_of_the_data_is_named(root: Path) -> None:
    (root / "VOCdevkit/VOC2007/ImageSets/Main/test.txt").unlink()
    with pytest.raises(DataError, match=r"there is no .*test\.txt"):
        VOC(root=str(root)).count("train")


def test_what_is_missing_is_fetched(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def fetch(url: str, root: Any, **kwargs: Any) -> None:
        fetched.append(url.rpartition("/")[2])
        draw_voc(Path(root))

    monkeypatch.setattr("torchvision.datasets.voc.download_and_extract_archive", fetch)
    assert VOC(root=str(root), download=True).count("test") == 4
    assert fetched == []
    assert VOC(root=str(root / "new"), download=True).count("test") == 6
    assert fetched == ["VOCtrainval_06-Nov-2007.tar"]  # the drawing has both parts


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="validation_share"):
        VOC(validation_share=1.5)
    with pytest.raises(ConfigError, match="batch_size"):
        VOC(batch_size=0)
