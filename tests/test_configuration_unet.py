"""The configuration: defaults, round trips, and what it refuses."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import PretrainedConfig
from unet_kvasir_seg import configuration_unet
from unet_kvasir_seg.configuration_unet import AUTO_MAP, UNetConfig
from unet_kvasir_seg.losses_unet import LOSSES
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation

NOT_DEFAULT = {
    "num_channels": 1,
    "base_channels": 12,
    "depth": 2,
    "norm": "group",
    "num_groups": 4,
    "upsampling": "bilinear",
    "dropout": 0.25,
    "channels": [4, 8, 8],
    "block": "residual",
    "encoder_blocks": [1, 2, 3],
    "stem_stride": 2,
    "decoder_channels": [4, 8],
    "decoder_convs": 1,
    "loss": "structure",
}
LESION = {0: "nothing", 1: "lesion"}


def test_defaults_are_the_card():
    config = UNetConfig()
    assert {name: getattr(config, name) for name in NOT_DEFAULT} == {
        "num_channels": 3,
        "base_channels": 64,
        "depth": 4,
        "norm": "none",
        "num_groups": 8,
        "upsampling": "transpose",
        "dropout": 0.0,
        "channels": None,
        "block": "plain",
        "encoder_blocks": None,
        "stem_stride": 1,
        "decoder_channels": None,
        "decoder_convs": 2,
        "loss": "bce_dice",
    }
    assert config.model_type == "unet_kvasir_seg"
    assert config.id2label == {0: "background", 1: "polyp"}
    assert config.label2id == {"background": 0, "polyp": 1}
    assert config.num_labels == 2


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, 16),
        ({"depth": 1}, 2),
        ({"depth": 5, "norm": "batch"}, 32),
        ({"norm": "group"}, 16),
        ({"norm": "group", "depth": 1, "channels": [4, 8], "num_groups": 4}, 2),
        ({"norm": "group", "depth": 1, "channels": [8, 4], "num_groups": 4}, 4),
        ({"norm": "instance"}, 32),
        ({"norm": "instance", "depth": 2}, 8),
        ({"stem_stride": 2}, 32),
        ({"stem_stride": 2, "norm": "instance", "depth": 2}, 16),
    ],
)
def test_minimum_size(fields: dict, size: int):
    assert UNetConfig(**fields).minimum_size == size


# --- Round trips ---


def through_json_string(config: UNetConfig, folder: Path) -> PretrainedConfig:
    return UNetConfig.from_dict(json.loads(config.to_json_string()))


def through_json_file(config: UNetConfig, folder: Path) -> PretrainedConfig:
    config.to_json_file(folder / "config.json")
    return UNetConfig.from_json_file(folder / "config.json")


def through_full_dict(config: UNetConfig, folder: Path) -> PretrainedConfig:
    return UNetConfig.from_dict(config.to_dict())


def through_short_dict(config: UNetConfig, folder: Path) -> PretrainedConfig:
    return UNetConfig.from_dict(config.to_diff_dict())


def through_folder(config: UNetConfig, folder: Path) -> PretrainedConfig:
    config.save_pretrained(folder)
    return UNetConfig.from_pretrained(folder)


def through_subfolder(config: UNetConfig, folder: Path) -> PretrainedConfig:
    config.save_pretrained(folder / "nested")
    return UNetConfig.from_pretrained(folder, subfolder="nested")


@pytest.mark.parametrize("fields", [{}, {**NOT_DEFAULT, "id2label": LESION}], ids=["defaults", "all"])
@pytest.mark.parametrize(
    "way",
    [
        through_json_string,
        through_json_file,
        through_full_dict,
        through_short_dict,
        through_folder,
        through_subfolder,
    ],
)
def test_round_trip(way, fields: dict, tmp_path: Path):
    config = UNetConfig(**fields)
    again = way(config, tmp_path)
    expected, got = config.to_dict(), again.to_dict()
    for saved in (expected, got):
        # Saving names the files that it wrote beside it; `test_auto_map_*` looks at it.
        saved.pop("auto_map", None)
        saved.pop("transformers_version", None)
    assert got == expected
    assert {name: getattr(again, name) for name in fields} == fields


def test_json_holds_every_field():
    written = json.loads(UNetConfig(**NOT_DEFAULT).to_json_string())
    assert {name: written[name] for name in NOT_DEFAULT} == NOT_DEFAULT
    assert written["model_type"] == "unet_kvasir_seg"


def test_a_config_that_names_nothing_is_the_card(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "unet_kvasir_seg"}')
    config = UNetConfig.from_pretrained(tmp_path)
    assert (config.base_channels, config.depth, config.norm, config.upsampling) == (64, 4, "none", "transpose")


@pytest.mark.parametrize(
    "fields",
    [
        {"return_dict": False},
        {"output_hidden_states": True},
        {"architectures": ["UNetForSemanticSegmentation"]},
        {"problem_type": "single_label_classification"},
        {"num_labels": 2},
        {"id2label": LESION},
    ],
)
def test_common_fields_are_kept(fields: dict, tmp_path: Path):
    config = UNetConfig(**fields)
    again = through_folder(config, tmp_path)
    assert {name: getattr(config, name) for name in fields} == fields
    assert {name: getattr(again, name) for name in fields} == fields


def test_dtype_is_a_common_field():
    assert UNetConfig(dtype="float16").dtype == torch.float16


def test_label2id_follows_id2label(tmp_path: Path):
    # JSON has no integer keys.
    config = UNetConfig(id2label={"0": "nothing", "1": "lesion"})
    for one in (config, through_folder(config, tmp_path)):
        assert one.id2label == LESION
        assert one.label2id == {"nothing": 0, "lesion": 1}


def test_overrides_of_from_pretrained(tmp_path: Path):
    UNetConfig(**NOT_DEFAULT).save_pretrained(tmp_path)
    config, unused = UNetConfig.from_pretrained(tmp_path, depth=3, colour="red", return_unused_kwargs=True)
    assert (config.depth, config.base_channels, unused) == (3, 12, {"colour": "red"})


def test_auto_map_names_every_auto_class(tmp_path: Path):
    UNetConfig().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert written == {
        "AutoConfig": "configuration_unet.UNetConfig",
        "AutoModel": "modeling_unet.UNetForSemanticSegmentation",
        "AutoModelForSemanticSegmentation": "modeling_unet.UNetForSemanticSegmentation",
    }


def test_auto_map_forgets_the_repo_it_came_from():
    config = UNetConfig.from_dict({"auto_map": {"AutoConfig": "someone/else--configuration_unet.UNetConfig"}})
    assert config.auto_map == AUTO_MAP
    config.auto_map["AutoModel"] = "changed"
    assert UNetConfig().auto_map["AutoModel"] == "modeling_unet.UNetForSemanticSegmentation"


# --- Refusals: what was got, and what is expected ---

REFUSED = [
    *(
        ({name: value}, rf"`{name}` must be a whole number of at least 1, got {value!r}")
        for name in ("num_channels", "base_channels", "depth", "num_groups", "decoder_convs")
        for value in (0, -1, 2.0, "4", True, None)
    ),
    *(
        ({"norm": norm}, rf"`norm` must be one of none, batch, group, instance, got {norm!r}")
        for norm in ("layer", "Batch", "", None)
    ),
    *(
        ({"upsampling": upsampling}, rf"`upsampling` must be one of transpose, bilinear, got {upsampling!r}")
        for upsampling in ("nearest", None)
    ),
    *(({"loss": loss}, f"`loss` must be one of {', '.join(LOSSES)}, got {loss!r}") for loss in ("dice", None)),
    *(
        ({"dropout": dropout}, rf"`dropout` must be at least 0 and below 1, got {dropout!r}")
        for dropout in (-0.1, 1.0, 1, 1.5, float("nan"), "0.1", None)
    ),
    (
        {"norm": "group", "base_channels": 12},
        r"base_channels=12 and num_groups=8\. Choose a `num_groups` that divides 12",
    ),
    ({"norm": "group", "base_channels": 4}, r"base_channels=4 and num_groups=8"),
    *(
        ({name: value}, rf"`{name}` must be a list of whole numbers of at least 1, got {re.escape(repr(value))}")
        for name in ("channels", "encoder_blocks", "decoder_channels")
        for value in (8, [0, 1, 2, 3, 4], ["8"] * 5, [1.0] * 5)
    ),
    ({"channels": [8] * 4}, r"`channels` must have 5 entries, one for each of the levels of depth=4, got 4: \[8, 8"),
    ({"decoder_channels": [8] * 5}, r"`decoder_channels` must have 4 entries, .*decoder stages of depth=4, got 5"),
    ({"block": "dense"}, r"`block` must be one of plain, residual, got 'dense'"),
    ({"block": "residual"}, r'block="residual" needs a normalisation, got norm="none": .*Choose norm="batch"'),
    ({"encoder_blocks": [1] * 5}, r'counts residual blocks, got \[1, 1, 1, 1, 1\] with block="plain". Choose'),
    *(
        ({"stem_stride": stride}, rf"`stem_stride` must be 1 or 2, got {stride!r}")
        for stride in (0, 4, True, "2", None)
    ),
    (
        {"norm": "group", "channels": [8, 12, 16, 16, 16]},
        r"needs `channels` to be multiples of `num_groups`, got 12 and num_groups=8\. Choose",
    ),
    ({"norm": "group", "decoder_channels": [8, 8, 8, 4]}, r"`decoder_channels` .*got 4 and num_groups=8"),
    *(({"num_labels": number}, rf"`num_labels` must be 2, got {number}: .*one logit") for number in (1, 5)),
    ({"depth": 13}, "`depth` must be at most 12, got 13"),
    ({"depth": 10**8}, "`depth` must be at most 12, got 100000000"),
    ({"depth": 10**4000}, "`depth` must be at most 12, got 1000"),
    ({"decoder_convs": 10**7}, "at most 1000 convolutions, got 40000010"),
    (
        {"block": "residual", "norm": "batch", "encoder_blocks": [10**7] + [1] * 4},
        "at most 1000 convolutions, got 20000016",
    ),
    ({"base_channels": 10**9}, "at most 1,073,741,824 parameters, got"),
    ({"channels": [8, 8, 8, 8, 10**6]}, "at most 1,073,741,824 parameters, got"),
    ({"decoder_channels": [10**6] + [8] * 3}, "at most 1,073,741,824 parameters, got"),
    ({"num_channels": 10**9}, "at most 1,073,741,824 parameters, got"),
    ({"channels": [8] * 10**6}, r"`channels` must have 5 entries, .*got 1000000: \[8, 8, .*\.\.\.\]"),
    ({"norm": "x" * 10**6}, "got 'xxxx"),
    ({"encoder": ["resnet34"]}, "`encoder` must be a name, got"),
    ({"id2label": {0: "polyp"}}, r"got \{0: 'polyp'\}: .*one logit.*Pass"),
    ({"id2label": {0: "a", 1: "b", 2: "c"}}, r"got \{0: 'a', 1: 'b', 2: 'c'\}: .*one logit.*Pass"),
    ({"id2label": {1: "a", 2: "b"}}, r"got \{1: 'a', 2: 'b'\}: .*one logit.*Pass"),
    ({"id2label": {0: "polyp", 1: "polyp"}}, r"two names, got \{0: 'polyp', 1: 'polyp'\}"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[str(fields)[:80] for fields, _ in REFUSED])
def test_refused(fields: dict, message: str):
    with pytest.raises(ValueError, match=message) as refusal:
        UNetConfig(**fields)
    assert len(str(refusal.value)) < 700


def test_the_bound_of_parameters_counts_nearly_all_of_them(monkeypatch):
    for fields in (
        {"base_channels": 16},
        {"channels": [8, 16, 24], "depth": 2, "decoder_channels": [4, 40], "decoder_convs": 3},
        {"base_channels": 8, "block": "residual", "norm": "batch", "encoder_blocks": [1, 2, 3, 1, 2]},
    ):
        config = UNetConfig(**fields)
        parameters = sum(weights.numel() for weights in UNetForSemanticSegmentation(config).parameters())
        with monkeypatch.context() as bound:
            bound.setattr(configuration_unet, "MAX_PARAMETERS", parameters)
            config.check()
            bound.setattr(configuration_unet, "MAX_PARAMETERS", int(0.85 * parameters))
            with pytest.raises(ValueError, match="parameters"):
                config.check()


def test_refused_in_a_file(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"norm": "layer"}')
    with pytest.raises(ValueError, match="got 'layer'"):
        UNetConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "layer"}, "got 'layer'"),
        ({"norm": "group", "num_groups": 3}, "base_channels=4 and num_groups=3"),
        ({"dropout": 1.0}, "got 1.0"),
    ],
)
def test_overrides_are_refused_when_the_model_is_built(fields: dict, message: str, tmp_path: Path):
    UNetForSemanticSegmentation(UNetConfig(base_channels=4, depth=1)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        UNetForSemanticSegmentation.from_pretrained(tmp_path, **fields)


@pytest.mark.parametrize("fields", [{"norm": "none"}, {"norm": "batch"}, {"norm": "instance"}])
def test_groups_matter_to_group_norm_alone(fields: dict):
    assert UNetConfig(base_channels=12, num_groups=8, **fields).base_channels == 12


def test_check_sees_later_changes():
    config = UNetConfig()
    config.num_labels = 5
    with pytest.raises(ValueError, match="one logit"):
        config.check()
