"""Training and evaluation as Lightning does them, of whatever a config names."""

from lightning.pytorch import LightningDataModule, LightningModule

from metaprune_pl.runs.context import Context


def fit(
    context: Context,
    model: LightningModule,
    data: LightningDataModule | None = None,
    ckpt_path: str | None = None,
) -> None:
    """Train a metanetwork, or one network further.

    Args:
        context: Where to run; its Trainer's epochs are the length of the training.
        model: What is trained, such as MetaTraining or Finetuning.
        data: The data.
        ckpt_path: Checkpoint to go on from; by default the last of the run's folder.

    Example:
        metaprune fit --config meta_quickstart.yaml
    """
    trainer = context.make_trainer(context.folder, context.max_epochs)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)


def validate(
    context: Context,
    model: LightningModule,
    data: LightningDataModule | None = None,
    ckpt_path: str | None = None,
) -> None:
    """Evaluate on the validation images.

    Args:
        context: Where to run.
        model: What is evaluated.
        data: The data.
        ckpt_path: Checkpoint with its weights.

    Example:
        metaprune validate --config meta_quickstart.yaml --ckpt_path LAST.ckpt
    """
    context.make_trainer(context.folder, None).validate(model, datamodule=data, ckpt_path=ckpt_path)


def test(
    context: Context,
    model: LightningModule,
    data: LightningDataModule | None = None,
    ckpt_path: str | None = None,
) -> None:
    """Evaluate on the test images.

    Args:
        context: Where to run.
        model: What is evaluated.
        data: The data.
        ckpt_path: Checkpoint with its weights.

    Example:
        metaprune test --config meta_quickstart.yaml --ckpt_path LAST.ckpt
    """
    context.make_trainer(context.folder, None).test(model, datamodule=data, ckpt_path=ckpt_path)
