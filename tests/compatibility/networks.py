"""The networks of the compatibility report, and a quick selection for every test run."""

from itertools import chain

from compatibility.libraries import installed

_TIMM = {
    160: (
        "test_byobnet test_coatnet test_convnext test_efficientnet test_mambaout test_nfnet "
        "test_resnet test_vit "
        "test_vit_relpos"
    ),
    176: ("resnet10t"),
    192: ("nf_regnet_b0"),
    224: (
        "cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32 convnext_zepto_rms cpubone_nano "
        "cspnext_tiny "
        "davit_tiny deit_small_distilled_patch16_224 deit_tiny_patch16_224 densenet121 "
        "densenetblur121d dla46x_c "
        "dla60_res2next dpn48b efficientformer_l1 efficientformerv2_s0 efficientvim_m1 "
        "efficientvit_b0 "
        "efficientvit_m0 ese_vovnet19b_slim_dw eva02_tiny_patch14_224 fasternet_t0 "
        "focalnet_tiny_srf gcvit_xxtiny "
        "ghostnet_050 gmixer_12_224 gmlp_ti16_224 hardcorenas_b hgnetv2_b0 hiera_tiny_224 "
        "hrnet_w18_small "
        "iformer_t inception_next_atto lcnet_035 lcnetv2_small legacy_seresnet18 levit_128s "
        "levit_256 "
        "lowformer_b0 mobilenetv2_035 mobilenetv3_small_050 mobileone_s1 mvitv2_tiny nest_tiny "
        "nextvit_small "
        "pit_ti_224 pit_xs_224 poolformer_s12 poolformerv2_s12 pvt_v2_b0 rdnet_tiny regnetx_002 "
        "regnety_002 "
        "repghostnet_050 repvit_m1 res2net50_26w_4s res2next50 resnest14d resnetv2_18 rexnet_100 "
        "selecsls42 "
        "sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs "
        "swin_tiny_patch4_window7_224 "
        "swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m twins_svt_small "
        "visformer_tiny "
        "vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224 "
        "xcit_nano_12_p8_224"
    ),
    240: ("crossvit_tiny_240"),
    256: (
        "cs3darknet_focus_s darknet17 eca_botnext26ts_256 edgenext_xx_small fastvit_t8 halonet_h1 "
        "hieradet_small "
        "maxvit_pico_rw_256 mobilevit_xxs mobilevitv2_050 swinv2_tiny_window16_256 "
        "vit_tiny_patch16_dinov3_qkvb"
    ),
    299: ("inception_v3 legacy_xception xception41p"),
}
"""Side of the images to networks of timm: one or two small ones of each of its families."""

QUICK = {
    "timm/test_byobnet": 64,
    "timm/test_convnext": 64,
    "timm/test_efficientnet": 64,
    "timm/test_mambaout": 64,
    "timm/test_nfnet": 64,
    "timm/test_resnet": 64,
    "timm/test_vit": 160,
    "timm/test_vit_relpos": 160,
    "timm/test_coatnet": 160,
    "torchvision/alexnet": 64,
    "torchvision/convnext_tiny": 32,
    "torchvision/densenet121": 32,
    "torchvision/efficientnet_b0": 32,
    "torchvision/googlenet": 32,
    "torchvision/inception_v3": 75,
    "torchvision/mnasnet0_5": 32,
    "torchvision/mobilenet_v2": 32,
    "torchvision/mobilenet_v3_small": 32,
    "torchvision/regnet_y_400mf": 32,
    "torchvision/resnet18": 32,
    "torchvision/resnext50_32x4d": 32,
    "torchvision/shufflenet_v2_x0_5": 32,
    "torchvision/squeezenet1_1": 64,
}
"""Network to the side of a small image that it takes."""


def whole_report() -> dict[str, str]:
    """Return every network of the report with its input.

    Torchvision's classifiers, timm's choice, and small ones of other libraries.
    """
    from torchvision import models

    sides = {"inception_v3": 299}
    torchvision = {
        f"torchvision/{name}": sides.get(name, 224) for name in models.list_models(module=models)
    }
    timm = chain.from_iterable(
        ((f"timm/{name}", side) for name in names.split()) for side, names in _TIMM.items()
    )
    images = {name: f"3,{side},{side}" for name, side in (torchvision | dict(timm)).items()}
    return images | installed()
