"""Batches of an image run, with a predictor that only records them."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from unet_kvasir_seg.common.errors import UserError
from unet_kvasir_seg.inference import image_run
from unet_kvasir_seg.inference.image_run import Done, Frame, ImageRun, encode_png
from unet_kvasir_seg.inference.inputs import Failure, Source
from unet_kvasir_seg.inference.output_folder import OutputFolder, image_row, make_record, read_record, refuse_mismatch
from unet_kvasir_seg.inference.prediction import Prediction, PreparedImage


class Recorder:
    """Stands for a predictor; `value` is the probability everywhere."""

    def __init__(self, value: float = 0.25):
        self.value = value
        self.batches: list[int] = []

    def predict_prepared(self, prepared, threshold=0.5):
        self.batches.append(len(prepared))
        maps = [np.full(image.size, self.value, np.float32) for image in prepared]
        return [Prediction(probability, probability, threshold) for probability in maps]


def frames(*sizes: tuple[int, int]) -> list[Frame]:
    return [
        Frame(Source(f"{index}.png", f"{index}.png"), "digest", PreparedImage(None, size), None)
        for index, size in enumerate(sizes)
    ]


def test_batches_are_bounded_by_number_and_by_pixels(monkeypatch):
    monkeypatch.setattr(image_run, "BATCH_PIXELS", 100)
    predictor = Recorder()
    items = frames(*[(2, 2)] * 7, (10, 8), (10, 2), (10, 1), (50, 50), (1, 1))
    found = list(ImageRun(predictor, OutputFolder(Path("out")), batch_size=3).segment(items))
    assert [frame for frame, _ in found] == items
    assert predictor.batches == [3, 3, 1 + 1, 2, 1, 1]


def test_other_items_are_passed_on():
    items = [Done(Source("y.png", "y.png"), by_earlier_run=True), Failure("x.png", "is damaged")]
    run = ImageRun(Recorder(), OutputFolder(Path("out")))
    assert list(run.segment(items)) == items
    assert [run.write(item) for item in items] == items


def test_nan_ends_the_run():
    with pytest.raises(UserError, match=r"NaN for the image 0\.png"):
        list(ImageRun(Recorder(float("nan")), OutputFolder(Path("out"))).segment(frames((2, 2))))


def test_rows_of_images_are_sums_over_their_lesions():
    first, second = [0, 0, 2, 1, 0.5, 0.0, 2, 10.0, 0.75], [4, 3, 5, 4, 4.0, 3.0, 1, 5.0, 0.9]
    record = {"image": "x.jpg", "digest": "digest", "presence": 0.98765432, "lesions": [first, second]}
    assert image_row(record) == ["x.jpg", "0.987654", "2", "3", "15.0000", ""]  # as of an earlier version
    assert image_row(record | {"uncertainty": 0.25})[-1] == "0.250000"
    assert image_row(record | {"lesions": []}) == ["x.jpg", "0.987654", "0", "0", "0.0000", ""]
    del record["presence"]  # as in folders that an earlier version wrote
    assert image_row(record) == ["x.jpg", "", "2", "3", "15.0000", ""]


def test_a_record_is_read_back_from_its_mask(tmp_path):
    probability = np.zeros((4, 5), np.float32)
    probability[1, 2:4] = 0.75
    # The odds of 0.75 are 3; with this calibration those of presence are 3 * 3 / 9.
    prediction = Prediction(probability, probability, 0.5, presence_calibration=[2.0, -math.log(9)])
    source = Source("in/x.jpg", "x.jpg")
    mask = tmp_path / "x.png"
    mask.write_bytes(encode_png(Image.fromarray(probability > 0.5), make_record(source, "digest", prediction)))
    record = read_record(mask)
    assert record is not None
    assert record.pop("presence") == pytest.approx(0.5)
    assert record.pop("uncertainty") == pytest.approx(1 - 0.5 * 2 * 1.5 / (1.5 + 2))
    assert record == {"image": "x.jpg", "digest": "digest", "lesions": [[2, 1, 4, 2, 2.5, 1.0, 2, 10.0, 0.75]]}
    assert refuse_mismatch(record, "digest", mask, source) is None
    assert "another file" in refuse_mismatch(record, "other", mask, source).reason
    mask.write_bytes(encode_png(Image.fromarray(probability > 0.5)))
    assert read_record(mask) is None
    assert "not from this command" in refuse_mismatch(None, "digest", mask, source).reason


class Fragile(Recorder):
    """Has memory for images of up to 10 pixels."""

    def predict_prepared(self, prepared, **options):
        if any(image.size[0] * image.size[1] > 10 for image in prepared):
            raise MemoryError("no 99 bytes\nleft")
        return super().predict_prepared(prepared, **options)


def test_of_a_batch_that_fails_only_the_images_that_fail_alone_are_not_done():
    items = frames((2, 2), (9, 9), (3, 3))
    small, failed, other = ImageRun(Fragile(), OutputFolder(Path("out")), batch_size=3).segment(items)
    assert (small[0], other[0]) == (items[0], items[2])
    assert failed == Failure("1.png", "MemoryError: no 99 bytes")


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep"), SystemError("a decoder's"), KeyError(1)])
def test_whatever_the_error_of_reading_an_image_it_is_its_own_failure(tmp_path, error):
    class Unable(Recorder):
        field_of_view = None

        def prepare(self, image):
            raise error

    Image.new("RGB", (3, 2)).save(tmp_path / "x.png")
    source = Source(str(tmp_path / "x.png"), "x.png")
    failure = ImageRun(Unable(), OutputFolder(tmp_path / "out")).read(source)
    assert isinstance(failure, Failure)
    assert failure.reason.startswith(type(error).__name__)


def test_an_error_of_finding_the_lesions_is_the_images_own_too(tmp_path):
    class Broken(Prediction):
        @property
        def mask(self):
            raise MemoryError

    (frame,) = frames((2, 2))
    probability = np.zeros((2, 2), np.float32)
    found = ImageRun(Recorder(), OutputFolder(tmp_path)).write((frame, Broken(probability, probability, 0.5)))
    assert found == Failure("0.png", "MemoryError")
