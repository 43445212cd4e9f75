"""Small networks of libraries that are no requirement, with random weights, and their inputs."""

from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

TEXT = "input_ids=16:ids attention_mask=16:mask"
_TOKENS: dict[str, Any] = {"vocab_size": 100, "num_labels": 4}
_LATENT = "sample=4,16,16 timestep=:ids encoder_hidden_states=7,16"


def vit() -> nn.Module:
    """ViT of transformers."""
    import transformers as hf

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"intermediate_size": 64, "image_size": 32, "patch_size": 8, "num_labels": 10}
    return hf.ViTForImageClassification(hf.ViTConfig(**sizes, **more))


def convnext() -> nn.Module:
    """ConvNeXt of transformers."""
    import transformers as hf

    config = hf.ConvNextConfig(hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1], num_labels=10)
    return hf.ConvNextForImageClassification(config)


def resnet() -> nn.Module:
    """ResNet of transformers."""
    import transformers as hf

    sizes = {"embedding_size": 16, "hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 1, 1]}
    return hf.ResNetForImageClassification(hf.ResNetConfig(**sizes, num_labels=10))


def swin() -> nn.Module:
    """Swin of transformers."""
    import transformers as hf

    sizes = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "window_size": 4}
    config = hf.SwinConfig(**sizes, depths=[2, 2], num_heads=[2, 4], num_labels=10)
    return hf.SwinForImageClassification(config)


def segformer() -> nn.Module:
    """SegFormer of transformers, for segmentation."""
    import transformers as hf

    sizes = {"hidden_sizes": [16, 32, 48, 64], "num_attention_heads": [1, 2, 3, 4]}
    config = hf.SegformerConfig(**sizes, depths=[1] * 4, decoder_hidden_size=32, num_labels=5)
    return hf.SegformerForSemanticSegmentation(config)


def distilbert() -> nn.Module:
    """DistilBERT of transformers, for classes of texts."""
    import transformers as hf

    sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    config = hf.DistilBertConfig(**sizes, **_TOKENS, max_position_embeddings=32)
    return hf.DistilBertForSequenceClassification(config)


def bert() -> nn.Module:
    """BERT of transformers, for classes of texts."""
    import transformers as hf

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"intermediate_size": 64, "max_position_embeddings": 32}
    return hf.BertForSequenceClassification(hf.BertConfig(**sizes, **more, **_TOKENS))


def gpt2() -> nn.Module:
    """GPT-2 of transformers, for classes of texts."""
    import transformers as hf

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0}
    return hf.GPT2ForSequenceClassification(hf.GPT2Config(**sizes, **_TOKENS, **ids))


def llama() -> nn.Module:
    """Llama of transformers: rotary embedding, grouped queries."""
    import transformers as hf

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    more = {"max_position_embeddings": 32, "vocab_size": 100, "use_cache": False}
    return hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, **heads, **more))


def clip_resnet() -> nn.Module:
    """Image tower of open_clip's ResNet-50."""
    import open_clip

    return open_clip.create_model("RN50").visual


def clip_vit() -> nn.Module:
    """Image tower of open_clip's ViT-S/32."""
    import open_clip

    return open_clip.create_model("ViT-S-32").visual


def clip_text() -> nn.Module:
    """Text tower of open_clip's ViT-S/32."""
    import open_clip

    return _Text(open_clip.create_model("ViT-S-32"))


class _Text(nn.Module):
    def __init__(self, clip: Any) -> None:
        super().__init__()
        del clip.visual
        self.clip = clip

    def forward(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.clip.encode_text(tokens)
        return features


def unet() -> nn.Module:
    """U-Net of segmentation_models_pytorch."""
    import segmentation_models_pytorch as smp

    return smp.Unet("resnet18", encoder_weights=None, classes=3)


def fpn() -> nn.Module:
    """FPN of segmentation_models_pytorch."""
    import segmentation_models_pytorch as smp

    return smp.FPN("mobilenet_v2", encoder_weights=None, classes=3)


def monai_unet(dims: int = 2) -> nn.Module:
    """U-Net of MONAI."""
    from monai.networks.nets import UNet

    sizes: dict[str, Any] = {"channels": (16, 32, 64), "strides": (2, 2), "num_res_units": 2}
    return UNet(spatial_dims=dims, in_channels=1, out_channels=2, **sizes)


def monai_unet_3d() -> nn.Module:
    """The same for volumes."""
    return monai_unet(3)


def diffusion_unet() -> nn.Module:
    """UNet2DModel of diffusers."""
    import diffusers

    return diffusers.UNet2DModel(
        **{"sample_size": 16, "layers_per_block": 1, "block_out_channels": (32, 64)},
        **{"norm_num_groups": 8, "attention_head_dim": 8},
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def conditional_unet() -> nn.Module:
    """UNet2DConditionModel of diffusers, which reads texts, too."""
    import diffusers

    return diffusers.UNet2DConditionModel(
        **{"sample_size": 16, "layers_per_block": 1, "block_out_channels": (32, 64)},
        **{"norm_num_groups": 8, "attention_head_dim": 4, "cross_attention_dim": 16},
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def autoencoder() -> nn.Module:
    """AutoencoderKL of diffusers."""
    import diffusers

    return diffusers.AutoencoderKL(
        **{"block_out_channels": (32, 64), "norm_num_groups": 8, "latent_channels": 4},
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )


LIBRARIES: dict[str, dict[str, str]] = {
    "transformers": {
        "vit": "3,32,32",
        "convnext": "3,64,64",
        "resnet": "3,64,64",
        "swin": "3,32,32",
        "segformer": "3,64,64",
        "distilbert": TEXT,
        "bert": TEXT,
        "gpt2": TEXT,
        "llama": TEXT,
    },
    "open_clip": {"clip_resnet": "3,224,224", "clip_vit": "3,224,224", "clip_text": "77:ids"},
    "segmentation_models_pytorch": {"unet": "3,64,64", "fpn": "3,64,64"},
    "monai": {"monai_unet": "1,32,32", "monai_unet_3d": "1,16,16,16"},
    "diffusers": {
        "diffusion_unet": "sample=3,16,16 timestep=:ids",
        "conditional_unet": _LATENT,
        "autoencoder": "3,32,32",
    },
}
"""Library to the builders of this module and what their networks take."""


def installed() -> dict[str, str]:
    """Networks of the libraries that are there, as `create_network` names them, to their inputs."""
    return {
        f"{__name__}:{name}": shape
        for library, networks in LIBRARIES.items()
        if find_spec(library) is not None
        for name, shape in networks.items()
    }
