"""The pipeline against the same steps written out with torch and numpy, and against processor and Predictor."""

import base64
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from scipy import ndimage
from transformers.pipelines import clean_custom_task
from unet_kvasir_seg import convert
from unet_kvasir_seg.common.device import choose_runtime
from unet_kvasir_seg.configuration_unet import UNetConfig
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
from unet_kvasir_seg.inference.predictor import Predictor
from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation
from unet_kvasir_seg.pipeline_unet import UNetImageSegmentationPipeline

CODE = (
    "configuration_unet.py",
    "encoder_unet.py",
    "losses_unet.py",
    "modeling_unet.py",
    "image_processing_unet.py",
    "regions_unet.py",
    "field_of_view_unet.py",
    "pipeline_unet.py",
)
SIZES = [(1, 1), (31, 17), (256, 256), (1072, 1920)]  # height and width

# Arguments: a folder with a model, images, and a folder to work in. Writes what the pipelines of three folders give:
# the model's, and those that the pipeline, and model and processor each alone, were saved to.
USE = """
import logging
import sys
from pathlib import Path

messages = []


class Keep(logging.Handler):
    def emit(self, record):
        messages.append((record.levelno, record.getMessage()))


logging.getLogger("transformers").addHandler(Keep(logging.WARNING))
import torch
from torchvision.transforms.v2.functional import pil_to_tensor
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

source, *images, work = sys.argv[1:]
options = {"trust_remote_code": True}
folders = [source, str(Path(work, "pipeline")), str(Path(work, "parts"))]
pipeline("image-segmentation", model=source, **options).save_pretrained(folders[1])
for part in (AutoModelForSemanticSegmentation, AutoImageProcessor):
    part.from_pretrained(source, **options).save_pretrained(folders[2])

results = []
for folder in folders:
    segment = pipeline("image-segmentation", model=folder, **options)
    assert type(segment).__module__.startswith("transformers_modules."), type(segment)
    for found in segment(images, batch_size=2):
        results.append([(entry["label"], pil_to_tensor(entry["mask"])[0], entry["score"]) for entry in found])
torch.save({"results": results, "messages": messages}, Path(work, "results.pt"))
assert "unet_kvasir_seg" not in sys.modules, "the installed package was used, not what was loaded"
"""


def frame(height: int, width: int) -> Image.Image:
    return next(generate(1, 64, seed=3))["image"].resize((width, height))


def make_pipeline(**options: object) -> UNetImageSegmentationPipeline:
    """With a network whose logits are positive for half of the pixels of `frame(32, 48)`."""
    torch.manual_seed(0)
    model = UNetForSemanticSegmentation(UNetConfig(base_channels=4, depth=2)).eval()
    processor = UNetImageProcessor(size={"height": 32, "width": 48})
    with torch.no_grad():
        logits = model(**processor(frame(32, 48), return_tensors="pt")).logits
        model.classifier.bias -= logits.median()
    return UNetImageSegmentationPipeline(
        model=model, image_processor=processor, task="image-segmentation", device="cpu", **options
    )


@pytest.fixture(scope="module")
def segment() -> UNetImageSegmentationPipeline:
    return make_pipeline()


def constant_pipeline(logit: float, **options: object) -> UNetImageSegmentationPipeline:
    """With a network that gives this logit to every pixel."""
    segment = make_pipeline(**options)
    torch.nn.init.zeros_(segment.model.classifier.weight)
    torch.nn.init.constant_(segment.model.classifier.bias, logit)
    return segment


def by_hand(segment: UNetImageSegmentationPipeline, image: Image.Image, threshold: float = 0.5) -> tuple:
    """Probability map and mask (H, W) of an upright image."""
    pixel_values = segment.image_processor(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = segment.model(pixel_values).logits
    native = F.interpolate(logits, (image.height, image.width), mode="bilinear", align_corners=False)
    probability = native.sigmoid()[0, 0].numpy()
    return probability, probability > threshold


def check(found: list, probability: np.ndarray, mask: np.ndarray) -> None:
    """What the pipeline gave, of a processor without calibration, is what these maps (H, W) say."""
    assert [entry["label"] for entry in found] == ["background", "polyp"]
    highest = float(probability.max())
    for entry, inside, score in zip(found, (~mask, mask), (1 - highest, highest), strict=True):
        assert entry.keys() == {"label", "mask", "score"}
        assert entry["mask"].mode == "L"
        np.testing.assert_array_equal(np.array(entry["mask"]), inside * np.uint8(255))
        assert type(entry["score"]) is float
        assert entry["score"] == pytest.approx(score, abs=1e-6)


# --- Masks and scores ---


@pytest.mark.parametrize("threshold", [0.5, 0.45])
@pytest.mark.parametrize("size", SIZES)
def test_masks_have_the_images_size_and_the_steps_values(segment, size, threshold):
    image = frame(*size)
    probability, mask = by_hand(segment, image, threshold)
    assert size == (1, 1) or 0 < mask.mean() < 1
    check(segment(image, threshold=threshold), probability, mask)


@pytest.mark.parametrize("size", SIZES)
def test_masks_are_those_of_the_processor_and_of_predictor(segment, size):
    image = frame(*size)
    polyp = np.array(segment(image)[1]["mask"]) == 255
    inputs = segment.image_processor(image, return_tensors="pt")
    with torch.no_grad():
        outputs = segment.model(**inputs)
    expected = segment.image_processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]
    np.testing.assert_array_equal(polyp, expected.numpy() == 1)
    copy = make_pipeline()  # Predictor changes the weights' memory format
    predictor = Predictor(copy.model, copy.image_processor, choose_runtime("cpu", "float32"))
    np.testing.assert_array_equal(polyp, predictor(image).mask)


def test_an_image_without_polyp_has_a_black_polyp_mask():
    background, polyp = constant_pipeline(-1.0)(frame(17, 31))
    assert (background["mask"], polyp["mask"]) == (Image.new("L", (31, 17), 255), Image.new("L", (31, 17), 0))
    assert polyp["score"] == pytest.approx(1 / (1 + np.exp(1)), abs=1e-6)
    assert background["score"] == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-6)


def test_an_image_of_polyp_alone_has_a_black_background_mask():
    background, polyp = constant_pipeline(1.0)(frame(17, 31))
    assert (background["mask"], polyp["mask"]) == (Image.new("L", (31, 17), 0), Image.new("L", (31, 17), 255))
    assert polyp["score"] == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-6)


def test_thresholds_may_be_given_once_and_overridden():
    def is_marked(found: list) -> bool:
        return np.array(found[1]["mask"]).any()

    segment = constant_pipeline(-1.0, threshold=0.25)  # every probability is 0.2689
    assert is_marked(segment(frame(4, 4)))
    assert not is_marked(segment(frame(4, 4), threshold=0.27))
    assert is_marked(segment([frame(4, 4)], threshold=None)[0])
    assert not is_marked(segment(frame(4, 4), peak_threshold=0.27))
    segment = constant_pipeline(-1.0, threshold=0.25, peak_threshold=0.27)
    assert not is_marked(segment(frame(4, 4)))
    assert is_marked(segment(frame(4, 4), peak_threshold=0.26))
    with pytest.raises(ValueError, match=r"threshold=0\.25 and peak_threshold=0\.2;"):
        segment(frame(4, 4), peak_threshold=0.2)


def test_small_regions_are_left_out_on_demand(segment):
    probability, mask = by_hand(segment, frame(40, 56))
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(labels.ravel())[1:]
    assert count >= 2
    assert areas.min() < areas.max()
    large = np.isin(labels, 1 + np.flatnonzero(areas >= areas.max()))
    for options in ({"min_area": int(areas.max())}, {"largest_lesion": True}):
        check(segment(frame(40, 56), **options), probability, large)
        check(make_pipeline(**options)(frame(40, 56)), probability, large)
    check(segment(frame(40, 56), min_area=1, largest_lesion=False), probability, mask)
    with pytest.raises(ValueError, match=r"min_area=-1; expected a whole number"):
        segment(frame(4, 4), min_area=-1)


def test_the_processors_decision_is_applied():
    segment = constant_pipeline(1.0)  # every probability is 0.7311
    segment.image_processor.peak_threshold = 0.75
    segment.image_processor.presence_calibration = [2.0, 0.0]
    background, polyp = segment(frame(17, 31))
    assert polyp["mask"] == Image.new("L", (31, 17), 0)
    assert polyp["score"] == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-6)
    assert background["score"] == pytest.approx(1 / (1 + np.exp(2)), abs=1e-6)
    assert segment(frame(17, 31), peak_threshold=0.73)[1]["mask"] == Image.new("L", (31, 17), 255)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_tta_gives_what_predictor_gives(segment, batch_size):
    images = [frame(40, 56), frame(33, 20)]
    found = segment(images, tta=True, batch_size=batch_size)
    copy = make_pipeline()
    predictor = Predictor(copy.model, copy.image_processor, choose_runtime("cpu", "float32"))
    for image, entries in zip(images, found, strict=True):
        expected = predictor(image, tta=True)
        np.testing.assert_array_equal(np.array(entries[1]["mask"]) == 255, expected.mask)
        assert entries[1]["score"] == pytest.approx(expected.presence, abs=1e-6)
        assert entries[1]["score"] != segment(image)[1]["score"]


def test_unknown_arguments_are_named(segment):
    with pytest.raises(TypeError, match="Got wobble, which"):
        segment(frame(4, 4), wobble=3)
    with pytest.raises(TypeError, match="Got treshold, which"):
        constant_pipeline(1.0, treshold=0.3)


def test_labels_are_named_as_in_the_config():
    segment = make_pipeline()
    segment.model.config.id2label = {1: "lesion", 0: "nothing"}
    assert [entry["label"] for entry in segment(frame(4, 4))] == ["nothing", "lesion"]


def test_a_bfloat16_network_works():
    segment = make_pipeline()
    segment.model.to(torch.bfloat16)
    probability, mask = by_hand(make_pipeline(), frame(31, 17))
    found = np.array(segment(frame(31, 17))[1]["mask"]) == 255
    assert (found != mask).mean() < 0.1
    assert segment(frame(31, 17))[1]["score"] == pytest.approx(probability.max(), abs=0.02)


# --- Images ---


@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_images_of_mixed_sizes_are_those_one_by_one(segment, kind, batch_size, tmp_path):
    sizes = [(40, 56), (1, 1), (31, 17), (9, 200), (32, 48)]
    images = [frame(*size) for size in sizes]
    images[1].save(tmp_path / "1.png")
    given = [images[0], str(tmp_path / "1.png"), *images[2:]]
    found = list(segment((image for image in given) if kind is iter else kind(given), batch_size=batch_size))
    assert len(found) == len(sizes)
    for entries, image in zip(found, images, strict=True):
        check(entries, *by_hand(segment, image))


def test_no_image_gives_no_result(segment):
    assert segment([]) == []


def test_a_path_gives_what_the_image_gives(segment, tmp_path):
    file = tmp_path / "a frame é.png"
    frame(31, 17).save(file)
    expected = segment(frame(31, 17))
    assert segment(file) == segment(str(file)) == expected
    assert segment([str(file), file]) == [expected, expected]


def test_masks_are_upright_as_the_exif_tag_says(segment, tmp_path):
    upright = frame(31, 17)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    expected = segment(upright)
    assert expected[1]["mask"].size == (17, 31)
    with Image.open(tmp_path / "turned.png") as turned:
        assert turned.size == (31, 17)
        assert segment(turned) == segment(str(tmp_path / "turned.png")) == expected


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_images_of_other_modes_are_read_as_the_processor_reads_them(segment, mode, tmp_path):
    if mode == "I;16":
        image = Image.fromarray(np.array(frame(31, 17).convert("L")).astype(np.uint16) * 257)
    else:
        image = frame(31, 17).convert(mode)
    file = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(file)
    for given in (image, str(file)):
        check(segment(given), *by_hand(segment, image))


def test_a_file_of_floats_is_read_as_one_of_bytes(segment, tmp_path):
    grey = frame(31, 17).convert("L")
    probability, mask = by_hand(segment, grey)
    Image.fromarray(np.float32(grey) / 255).save(tmp_path / "floats.tif")
    (_, polyp) = segment(str(tmp_path / "floats.tif"))
    assert polyp["mask"].size == grey.size
    assert polyp["score"] == pytest.approx(float(probability.max()), abs=1e-3)
    assert (np.array(polyp["mask"]) == mask * 255).mean() > 0.99


# --- What is refused ---


def test_subtasks(segment):
    image = frame(4, 4)
    assert segment(image, subtask="semantic") == segment(image, subtask=None) == segment(image)
    for subtask in ("panoptic", "instance", "Semantic", ""):
        with pytest.raises(ValueError, match=f"subtask='{subtask}'; expected \"semantic\""):
            segment(image, subtask=subtask)
    with pytest.raises(ValueError, match="subtask='panoptic'"):
        make_pipeline(subtask="panoptic")


@pytest.mark.parametrize("name", ["mask_threshold", "overlap_mask_area_threshold"])
def test_arguments_of_other_segmentations_are_refused(segment, name):
    with pytest.raises(ValueError, match=f"Got {name}, .* `threshold`"):
        segment(frame(4, 4), **{name: 0.5})


@pytest.mark.parametrize("threshold", [-0.1, 1.5])
def test_a_threshold_that_is_no_probability_is_refused(segment, threshold):
    with pytest.raises(ValueError, match=f"threshold={threshold}"):
        segment(frame(4, 4), threshold=threshold)


def test_an_array_is_refused(segment):
    with pytest.raises(TypeError, match=r"type ndarray; expected a PIL image.*Image\.fromarray"):
        segment(np.zeros((4, 4, 3), np.uint8))


def test_a_file_that_is_not_there_is_named(segment, tmp_path):
    with pytest.raises(ValueError, match=r"absent\.png"):
        segment(tmp_path / "absent.png")


# --- Files and logs ---


def test_nothing_is_logged(caplog):
    # transformers' logger passes nothing on to the root, where caplog listens.
    logging.getLogger("transformers").addHandler(caplog.handler)
    try:
        make_pipeline()(frame(4, 4))
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)
    # transformers 4.57 says of every pipeline, as a warning, where it computes.
    assert [message for message in caplog.messages if message != "Device set to use cpu"] == []


def test_a_config_names_the_pipeline_whatever_was_done_to_another():
    expected = {
        "image-segmentation": {
            "impl": "pipeline_unet.UNetImageSegmentationPipeline",
            "pt": ["AutoModelForSemanticSegmentation"],
        }
    }
    config = UNetConfig.from_dict({"custom_pipelines": {"image-segmentation": {"impl": "someone/else--other.Other"}}})
    clean_custom_task(config.custom_pipelines["image-segmentation"])  # what `pipeline()` does
    assert config.custom_pipelines == UNetConfig().custom_pipelines == expected
    for written in (config.to_dict(), config.to_diff_dict(), json.loads(config.to_json_string())):
        assert written["custom_pipelines"] == expected


def test_convert_writes_the_pipeline(tmp_path):
    torch.save(make_pipeline().model.state_dict(), tmp_path / "unet.pt")
    convert.main([str(tmp_path / "unet.pt"), "--output_dir", str(tmp_path / "converted"), "--concat", "skip-first"])
    for name in CODE:
        assert (tmp_path / "converted" / name).read_bytes() == Path(convert.__file__).with_name(name).read_bytes()
    config = json.loads((tmp_path / "converted" / "config.json").read_text())
    assert config["custom_pipelines"]["image-segmentation"]["impl"] == "pipeline_unet.UNetImageSegmentationPipeline"


def test_folders_work_in_a_fresh_process_from_elsewhere_without_a_warning(segment, tmp_path):
    source, work = tmp_path / "tiny-unet", tmp_path / "work"
    work.mkdir()
    segment.model.save_pretrained(source)
    segment.image_processor.save_pretrained(source)
    assert {file.name for file in source.glob("*.py")} == set(CODE)
    images = [frame(17, 31), frame(1, 1), frame(256, 256)]
    files = [str(tmp_path / f"{index}.png") for index in range(3)]
    for image, file in zip(images, files, strict=True):
        image.save(file)
    done = subprocess.run(
        [sys.executable, "-I", "-c", USE, str(source), *files, str(work)],
        cwd=work,
        env=os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "not supported" not in done.stderr
    assert "arning" not in done.stderr
    saved = torch.load(work / "results.pt", weights_only=True)
    assert {message for _, message in saved["messages"]} <= {"Device set to use cpu"}
    assert len(saved["results"]) == 3 * len(images)
    for entries, image in zip(saved["results"], images * 3, strict=True):
        found = [
            {"label": label, "mask": Image.fromarray(mask.numpy()), "score": score} for label, mask, score in entries
        ]
        check(found, *by_hand(segment, image))
    for folder in ("pipeline", "parts"):
        assert (work / folder / "pipeline_unet.py").read_bytes() == (source / "pipeline_unet.py").read_bytes()
        written = json.loads((work / folder / "config.json").read_text())
        assert written["custom_pipelines"] == UNetConfig().custom_pipelines


def test_a_files_content_does_not_choose_the_decoder(segment, tmp_path):
    """Pillow would start Ghostscript for a picture in PostScript, whatever its name."""
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "script.png").write_bytes(content)
    for source in (str(tmp_path / "script.png"), base64.b64encode(content).decode()):
        with pytest.raises(UnidentifiedImageError):
            segment(source)
