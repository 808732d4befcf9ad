"""Output folders of predict.py with chosen predictions, to make reports of."""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from unet_kvasir_seg.inference.image_run import encode_png
from unet_kvasir_seg.inference.inputs import MASKS, VIDEOS, Source
from unet_kvasir_seg.inference.output_folder import RUN_FILE, make_record, write_inputs
from unet_kvasir_seg.inference.prediction import Prediction
from unet_kvasir_seg.inference.video import COLUMNS as FRAME_COLUMNS

RUN = {"schema_version": 1, "model": "sha256:0123", "threshold": 0.5, "presence_calibration": None}


def save_run(output: Path, **settings: Any) -> Path:
    """An output folder with nothing but run.json."""
    output.mkdir(parents=True)
    (output / RUN_FILE).write_text(json.dumps(RUN | settings), encoding="utf-8")
    return output


def boxes(large: float, small: float = 0.0) -> np.ndarray:
    """Probabilities (60, 80): those of 20 x 10 pixels and of 4 x 4, and 0 around them."""
    probability = np.zeros((60, 80), np.float32)
    probability[10:20, 30:50] = large
    probability[40:44, 8:12] = small
    return probability


def save_image(output: Path, file: Path, name: str, probability: np.ndarray) -> Path:
    """An image, grey if it is not there yet, and its mask in the output folder, whose path is returned."""
    height, width = probability.shape
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), (120, 110, 100)).save(file)
    source = Source(str(file), name)
    prediction = Prediction(probability, probability, 0.5)
    record = make_record(source, hashlib.sha256(file.read_bytes()).hexdigest(), prediction)
    mask = output / source.output(MASKS, ".png")
    mask.parent.mkdir(parents=True, exist_ok=True)
    mask.write_bytes(encode_png(Image.fromarray(prediction.mask.view(np.uint8) * np.uint8(255)), record))
    return mask


def save_images(output: Path, folder: Path, images: Mapping[str, np.ndarray]) -> None:
    """Images of a folder with their probabilities, by name, and inputs.json."""
    for name, probability in images.items():
        save_image(output, folder / name, name, probability)
    write_inputs(output, [Source(str(folder / name), name) for name in images])


def save_video(output: Path, name: str, frames: Sequence[Sequence[Any]], tracks: list[list[float]] | None) -> Path:
    """What predict.py writes of a video, but for its overlay, whose path is returned and which is empty.

    Args:
        output: The output folder.
        name: Of the video.
        frames: The rows of its table.
        tracks: As in its record; None: as in one of an earlier version.
    """
    overlay = output / Source(name, name).output(VIDEOS, ".mp4")
    overlay.parent.mkdir(parents=True, exist_ok=True)
    overlay.write_bytes(b"")
    record = {"video": name, "digest": "00", "frames": len(frames), "problem": None, "notes": []}
    if tracks is not None:
        record["tracks"] = tracks
    overlay.with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")
    with overlay.with_suffix(".csv").open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([FRAME_COLUMNS, *frames])
    return overlay


def page_data(page: Path) -> dict[str, Any]:
    """The data in a report."""
    text = page.read_text(encoding="utf-8")
    return json.loads(text.split('<script id="data" type="application/json">')[1].split("</script>")[0])
