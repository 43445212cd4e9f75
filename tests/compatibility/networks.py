"""The networks of the compatibility report, and a quick selection for every test run."""

from itertools import chain

_TIMM = {
    160: (
        "test_byobnet test_coatnet test_convnext test_efficientnet test_mambaout test_nfnet test_resnet test_vit "
        "test_vit_relpos"
    ),
    176: ("resnet10t"),
    192: ("nf_regnet_b0"),
    224: (
        "cait_xxs24_224 coat_mini coat_tiny convit_tiny convmixer_768_32 convnext_zepto_rms cpubone_b0_bfrobust "
        "cpubone_nano cspnext_s cspnext_tiny davit_tiny deit_small_distilled_patch16_224 deit_tiny_patch16_224 "
        "densenet121 densenetblur121d dla46x_c dla60_res2next dpn48b dpn68b efficientformer_l1 "
        "efficientformerv2_s0 efficientformerv2_s1 efficientvim_m1 efficientvim_m2 efficientvit_b0 "
        "efficientvit_b2 efficientvit_m0 efficientvit_m2 ese_vovnet19b_slim_dw eva02_tiny_patch14_224 "
        "fasternet_t0 fasternet_t2 focalnet_tiny_srf gcvit_xtiny gcvit_xxtiny ghostnet_050 ghostnetv3_050 "
        "gmixer_12_224 gmlp_ti16_224 hardcorenas_b hardcorenas_c hgnet_tiny hgnetv2_b0 hiera_small_224 "
        "hiera_tiny_224 hrnet_w18 hrnet_w18_small iformer_m_distilled iformer_t inception_next_atto "
        "inception_next_tiny lcnet_035 lcnetv2_small legacy_seresnet18 legacy_seresnext50_32x4d levit_128s "
        "levit_256 lowformer_b0 lowformer_e1 mambaout_femto mobilenetv2_035 mobilenetv3_small_050 mobileone_s1 "
        "mvitv2_small_cls mvitv2_tiny nest_small nest_tiny nextvit_small pit_ti_224 pit_xs_224 poolformer_s12 "
        "poolformerv2_s12 pvt_v2_b0 pvt_v2_b2_li rdnet_tiny regnetx_002 regnety_002 repghostnet_050 "
        "repghostnet_080 repvit_m1 repvit_m1_0 res2net50_26w_4s res2next50 resnest14d resnest50d_1s4x24d "
        "resnetv2_18 resnetv2_50t rexnet_100 rexnetr_100 selecsls42 selecsls60 sequencer2d_s shvit_s1 shvit_s2 "
        "skresnet18 skresnext50_32x4d starnet_s050 starnet_s150 swiftformer_s swiftformer_xs "
        "swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 tiny_vit_11m_224 tiny_vit_5m_224 "
        "tnt_s_legacy_patch16_224 tresnet_m twins_svt_small visformer_tiny vit_srelpos_small_patch16_224 "
        "vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224 vovnet39a xcit_nano_12_p8_224"
    ),
    240: ("crossvit_small_240 crossvit_tiny_240"),
    256: (
        "cs3darknet_focus_s darknet17 eca_botnext26ts_256 edgenext_x_small edgenext_xx_small fastvit_sa12 "
        "fastvit_t8 halonet_h1 hieradet_small maxvit_pico_rw_256 mobilevit_xxs mobilevitv2_050 "
        "swinv2_tiny_window16_256 vit_tiny_patch16_dinov3_qkvb"
    ),
    299: ("inception_v3 legacy_xception xception41 xception41p"),
}
"""Side of the images to networks of timm: the smallest two of each of its families up to 40 million parameters."""

QUICK = {
    "timm/test_byobnet": 64, "timm/test_convnext": 64, "timm/test_efficientnet": 64, "timm/test_mambaout": 64,
    "timm/test_nfnet": 64, "timm/test_resnet": 64, "timm/test_vit": 160, "timm/test_vit_relpos": 160,
    "timm/test_coatnet": 160,
    "torchvision/alexnet": 64, "torchvision/convnext_tiny": 32, "torchvision/densenet121": 32,
    "torchvision/efficientnet_b0": 32, "torchvision/googlenet": 32, "torchvision/inception_v3": 75,
    "torchvision/mnasnet0_5": 32, "torchvision/mobilenet_v2": 32, "torchvision/mobilenet_v3_small": 32,
    "torchvision/regnet_y_400mf": 32, "torchvision/resnet18": 32, "torchvision/resnext50_32x4d": 32,
    "torchvision/shufflenet_v2_x0_5": 32, "torchvision/squeezenet1_1": 64,
}  # fmt: skip
"""Network to the side of a small image that it takes."""


def whole_report() -> dict[str, int]:
    """Return every network of the report with the side of its images: torchvision's classifiers, then timm's choice."""
    from torchvision import models

    sides = {"inception_v3": 299}
    torchvision = {f"torchvision/{name}": sides.get(name, 224) for name in models.list_models(module=models)}
    timm = chain.from_iterable(((f"timm/{name}", side) for name in names.split()) for side, names in _TIMM.items())
    return torchvision | dict(timm)
