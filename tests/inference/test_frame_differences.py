"""The rules by which images and films differ from the frames of the training, and the lines for the user."""

import json
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageFilter
from scipy.stats import binom
from test_frame_statistics import measured
from unet_kvasir_seg.data.dataset import load_splits
from unet_kvasir_seg.data.samples import decode_image
from unet_kvasir_seg.inference import frame_differences
from unet_kvasir_seg.inference.frame_differences import (
    describe_differences,
    find_differences,
    find_film_differences,
)
from unet_kvasir_seg.inference.frame_statistics import FEWEST_FRAMES, LEVELS, FrameStatistics, StatisticsError
from unet_kvasir_seg.inference.resize import resize_frame


def uniform(**others: list[float]) -> FrameStatistics:
    """Of brightness that is spread evenly from 0 to 1."""
    return FrameStatistics(100, 100, {"brightness": list(LEVELS), **others})


def found(*brightness: float) -> list[tuple[str, float]]:
    differences = find_differences(uniform(), [{"brightness": value} for value in brightness])
    return [(one.what, one.share) for one in differences]


def test_more_than_half_of_the_frames_have_to_be_far_off_on_one_side():
    assert found(0.02, 0.02, 0.02, 0.5, 0.5) == [("darker", 0.6)]
    assert found(0.98, 0.99, 2.0, 0.98) == [("brighter", 1.0)]
    assert found(0.02, 0.02, 0.02, 0.5, 0.5, 0.5) == []
    assert found(*[0.02] * 3, *[0.98] * 3) == []
    assert found(*[0.03] * 100) == []  # all in the lower tenth, and none beyond 97.5 %
    assert found() == []


@pytest.mark.parametrize("count", range(1, 12))
def test_few_frames_have_to_be_more_than_chance(count):
    """The smallest number far off that is told, by scipy's binomial distribution."""
    expected = next(
        (far for far in range(1, count + 1) if far > count / 2 and binom.sf(far - 1, count, 0.025) < 0.0005), None
    )
    told = [far for far in range(1, count + 1) if found(*[0.01] * far, *[0.5] * (count - far))]
    assert told[:1] == ([] if expected is None else [expected])
    assert (expected is None) == (count < 3)


def test_measures_that_say_nothing_bad_are_not_told():
    statistics = FrameStatistics(100, 100, {"presence": list(LEVELS), "uncertainty": list(LEVELS)})
    assert find_differences(statistics, [{"presence": 1.0, "uncertainty": 0.0}] * 9) == []
    told = find_differences(statistics, [{"presence": 0.0}] * 6 + [{"presence": 0.0, "uncertainty": 1.0}] * 3)
    assert [(one.what, one.share) for one in told] == [("fewer polyps found", 1.0), ("less certain outlines", 1.0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "are of version 2, and this version of the project reads 1"),
        ({"version": None}, "are of version None"),
        ({"quantiles": {"brightness": [1.0]}}, "are damaged"),
        ({"quantiles": {"brightness": list(LEVELS[::-1])}}, "are damaged"),
        ({"quantiles": {"brightness": ["x"] * len(LEVELS)}}, "are damaged"),
        ({"quantiles": {"brightness": [*LEVELS[1:], 10**400]}}, "are damaged"),
        ({"quantiles": {"brightness": [*LEVELS[1:], float("nan")]}}, "are damaged"),
        ({"quantiles": {"brightness": [*LEVELS[1:], True]}}, "are damaged"),
        ({"quantiles": 3}, "are damaged"),
        ({"frames": None}, "are damaged"),
        ({"levels": [0.5]}, "are damaged: their quantiles are at other levels"),
    ],
)
def test_other_statistics_are_a_line_and_no_crash(change, message):
    settings = {"frame_statistics": uniform().to_dict() | change}
    with pytest.raises(StatisticsError, match=message):
        FrameStatistics.from_settings(settings)
    line = describe_differences(settings, [{"brightness": 0.0}] * 9)
    assert line.count("\n") == 1
    assert message in line
    assert "--save_statistics" in line
    assert describe_differences({"frame_statistics": [1]}, []).startswith(
        "The model's statistics of its training frames are damaged"
    )


@pytest.fixture(scope="module")
def shipped() -> FrameStatistics:
    statistics = FrameStatistics.from_settings(json.loads((ROOT / "preprocessor_config.json").read_text()))
    assert statistics is not None
    return statistics


@pytest.fixture(scope="module")
def validation_frames(kvasir_seg) -> list[Image.Image]:
    rows = load_splits(kvasir_seg, needed_splits=["validation"])["validation"]
    return [decode_image(rows[index]["image"], index) for index in range(0, len(rows), 4)]


def seen(image: Image.Image | np.ndarray) -> dict[str, float]:
    return measured(resize_frame(np.asarray(image), (384, 384)))


def test_real_frames(shipped, validation_frames):
    """Colours and sharpness alone, without the network: validation frames are like the training's, grey ones not."""
    assert find_differences(shipped, map(seen, validation_frames)) == []
    told = find_differences(shipped, [seen(image.convert("L").convert("RGB")) for image in validation_frames[:5]])
    assert {"less red", "bluer", "paler colours"} <= {one.what for one in told}


def filmed(images: list[Image.Image], quality: int, path: Path) -> list[dict[str, float]]:
    """Measures of the frames of an H.264 film that shows each image for a second, at two frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.width, stream.height, stream.pix_fmt = 640, 512, "yuv420p"
        stream.codec_context.options = {"crf": str(quality), "preset": "veryfast"}
        for image in images:
            for _ in range(2):
                container.mux(stream.encode(av.VideoFrame.from_image(image.resize((640, 512)))))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        return [seen(frame.to_ndarray(format="rgb24")) for frame in islice(container.decode(video=0), 0, None, 2)]


@pytest.mark.slow
def test_real_films(shipped, validation_frames, tmp_path):
    """25 frames as one film, as they are and changed; and each of them as a film of one place."""
    third = [image.point(lambda level: level // 3) for image in validation_frames]
    grey = [image.convert("L").convert("RGB") for image in validation_frames]
    blurred = [image.filter(ImageFilter.GaussianBlur(4)) for image in validation_frames]
    blue = [
        Image.fromarray((np.asarray(one) * [0.7, 1, 1.3]).clip(0, 255).astype(np.uint8)) for one in validation_frames
    ]
    films = {f"as they are, quality {quality}": (validation_frames, quality) for quality in (18, 23, 30)}
    films |= {
        "a third": (third, 23),
        "grey": (grey, 23),
        "blurred": (blurred, 23),
        "red x 0.7, blue x 1.3": (blue, 23),
    }
    for name, (images, quality) in films.items():
        told = find_film_differences(shipped, {name: filmed(images, quality, tmp_path / "film.mp4")})
        print(name, [one.what for one in told])
        assert bool(told) == (not name.startswith("as they are"))
    of_one_place = [find_film_differences(shipped, {"a": in_one_place(image)}) for image in validation_frames]
    print(f"of one place: {sum(map(bool, of_one_place))} of {len(of_one_place)} told")
    assert sum(map(bool, of_one_place)) <= 5


def times(pixels: np.ndarray, *factors: float) -> Image.Image:
    """With each channel times a factor."""
    return Image.fromarray((pixels * factors).clip(0, 255).astype(np.uint8))


def in_one_place(image: Image.Image) -> list[dict[str, float]]:
    """Ten frames of one image, every other one mirrored, and up to 10 % darker or brighter."""
    generator, pixels = np.random.default_rng(0), np.asarray(image)
    return [
        seen(times(pixels[:, :: -1 if number % 2 else 1], *[generator.uniform(0.9, 1.1)] * 3)) for number in range(10)
    ]


def film(*brightness: float) -> list[dict[str, float]]:
    return [{"brightness": value} for value in brightness]


def found_in_films(**films: list[dict[str, float]]) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.what, one.films) for one in find_film_differences(uniform(), films)]


def test_one_film_has_to_be_further_off_nearly_throughout():
    """Below 0.01 lie 1 % of the training frames; below 0.025, 2.5 %."""
    assert found_in_films(a=film(*[0.009] * 8, 0.5, 0.5)) == [("darker", ("a",))]
    assert found_in_films(a=film(*[0.991] * 64)) == [("brighter", ("a",))]
    assert found_in_films(a=film(*[0.009] * 7, 0.5, 0.5, 0.5)) == []  # less than 80 %
    assert found_in_films(a=film(*[0.011] * 64)) == []  # one scene may lie there for long
    assert found_in_films(a=film(*[0.009] * 9)) == []  # too short
    assert found_in_films() == []


def test_a_film_counts_once_whatever_its_length():
    far = film(*[0.02] * 3, 0.5)
    assert found_in_films(a=far, b=far, c=far) == [("darker", ("a", "b", "c"))]
    assert found_in_films(a=far, b=far) == []
    # Each film is one of the seven: four far off are more than half, three are not.
    near = film(*[0.5] * 64)
    assert found_in_films(a=far, b=far, c=far, d=near, e=near, f=near, g=near) == []
    assert found_in_films(a=far, b=far, c=far, h=far, d=near, e=near, f=near) == [("darker", ("a", "b", "c", "h"))]
    # One that is far off for sure is told among many others.
    assert found_in_films(a=film(*[0.0] * 10), b=near, c=near, d=far) == [("darker", ("a", "d"))]


def test_films_without_polyp_are_nothing_to_tell():
    statistics = FrameStatistics(100, 100, {"presence": list(LEVELS), "uncertainty": list(LEVELS)})
    assert find_film_differences(statistics, {"a": [{"presence": 0.0, "uncertainty": 1.0}] * 64}) == []


def test_the_lines_of_images_and_of_videos():
    settings = {"frame_statistics": uniform().to_dict()}
    far, near = film(*[0.0] * 10), film(*[0.5] * 10)
    one = describe_differences(settings, [], {"a.mp4": far, "earlier.mp4": []})
    assert one == (
        "The frames of the video differ from those that the model was trained on: darker. Expect lower scores.\n"
    )
    both = describe_differences(settings, film(2.0, 2.0, 2.0), {"a.mp4": far, "b\n.mp4": near, "c.mp4": far})
    assert both.splitlines() == [
        "These frames differ from those that the model was trained on: brighter (100% of them). Expect lower scores.",
        "These videos differ from the frames that the model was trained on: darker (2 of 3: a.mp4, c.mp4). "
        "Expect lower scores.",
    ]
    assert describe_differences(settings, film(0.5), {"a.mp4": near}) == ""
    assert describe_differences({}, film(0.0), {"a.mp4": far}) == ""


def test_constants_agree():
    assert {1 - frame_differences.TAIL, 1 - frame_differences.FILM_TAIL} <= set(LEVELS)
    assert pytest.approx(1) == FEWEST_FRAMES * frame_differences.TAIL
