"""Predictions that nobody has looked at are not taken for labels in silence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_files import (
    coco_data,
    cvat_text,
    label_studio_tasks,
    labelme_data,
    masks_of,
    via_data,
    write_coco,
    write_frames,
)
from unet_kvasir_seg.data.samples import DatasetError


def written(folder: Path, data: Any) -> Path:
    file = folder / "export.json"
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    return file


def predictions_of(masks: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Tasks of Label Studio, as `predict.py --annotations label-studio` writes them."""
    tasks = label_studio_tasks(masks)
    return [{"data": one["data"], "predictions": [{"result": one["annotations"][0]["result"]}]} for one in tasks]


def test_predictions_for_label_studio_have_to_be_submitted_there(tmp_path):
    masks = write_frames(tmp_path / "images", count=2)
    file = written(tmp_path, predictions_of(masks))
    for source in (file, tmp_path):
        with pytest.raises(DatasetError, match=r"export\.json holds tasks with predictions alone.*Submit"):
            masks_of(source)
    # The other file of the folder is of the same images: it is meant, whatever lies beside it.
    write_coco(tmp_path, masks).rename(tmp_path / "corrected.json")
    assert masks_of(tmp_path).keys() == masks.keys()


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({}, "predictions of a model that nobody has submitted"),
        ({"drafts": [{"result": [{"id": "a"}]}]}, "a draft in Label Studio that was not submitted"),
        ({"annotations": [{"was_cancelled": True, "result": []}]}, "skipped in Label Studio"),
    ],
)
def test_what_is_unfinished_in_label_studio_is_no_frame_without_polyp(state, reason, tmp_path, caplog):
    masks = write_frames(tmp_path / "images", count=3)
    tasks = label_studio_tasks(masks)
    tasks[1] |= {"annotations": [], "predictions": predictions_of(masks)[1]["predictions"]} | state
    file = written(tmp_path, tasks)
    assert masks_of(file, unlabelled="negative").keys() == {"frame0.jpg", "frame2.jpg"}
    assert f"1 image left out: {reason}" in caplog.text
    for task in tasks:
        task |= {"annotations": [], "predictions": predictions_of(masks)[1]["predictions"]} | state
    with pytest.raises(DatasetError, match=f"of 3 images that it lists, 3 left out: {reason}.*export again"):
        masks_of(written(tmp_path, tasks))


def scored_coco(masks: dict[str, np.ndarray], folder: Path) -> Any:
    data = coco_data(masks)
    data["annotations"] = [one | {"score": 0.9} for one in data["annotations"]]
    return data


def scored_labelme(masks: dict[str, np.ndarray], folder: Path) -> Any:
    data = labelme_data("frame0.jpg", masks["frame0.jpg"])
    return data | {"shapes": [shape | {"score": 0.9} for shape in data["shapes"]], "imagePath": "images/frame0.jpg"}


def scored_cvat(masks: dict[str, np.ndarray], folder: Path) -> Any:
    text = cvat_text(masks)
    return text.replace("</polygon>", '<attribute name="score">0.9</attribute></polygon>').replace(
        "</mask>", '<attribute name="score">0.9</attribute></mask>'
    )


def scored_via(masks: dict[str, np.ndarray], folder: Path) -> Any:
    data = via_data(masks, folder)
    for image in data.values():
        for region in image["regions"]:
            region["region_attributes"]["score"] = "0.9"
    return data


@pytest.mark.parametrize("write", [scored_coco, scored_labelme, scored_cvat, scored_via])
def test_regions_that_all_have_a_score_are_used_with_a_warning(write, tmp_path, caplog):
    """Corrected ones keep it, so it is no error; one that was drawn by hand shows that someone has looked."""
    masks = write_frames(tmp_path / "images", count=1)
    file = written(tmp_path, write(masks, tmp_path))
    found = masks_of(file)
    assert (found["frame0.jpg"] == masks["frame0.jpg"]).all()
    assert "with the score of a model" in caplog.text
    caplog.clear()
    text = file.read_text()
    some_without = {"<attribute": '<attribute name="score">0.9</attribute>', "{": ', "score": 0.9'}
    part = some_without["<attribute" if text.startswith("<") else "{"]
    if write is scored_via:
        part = ', "score": "0.9"'
    if text.count(part) > 1:
        file.write_text(text.replace(part, "", 1))
        assert (masks_of(file)["frame0.jpg"] == masks["frame0.jpg"]).all()
        assert "with the score of a model" not in caplog.text


def test_results_for_cocos_evaluation_and_panoptic_files_get_a_remedy(tmp_path):
    masks = write_frames(tmp_path / "images", count=2)
    data = coco_data(masks)
    results = [one | {"score": 0.9} for one in data["annotations"]]
    with pytest.raises(DatasetError, match=r"predictions without their images: .*corrected"):
        masks_of(written(tmp_path, results))
    panoptic = data | {"annotations": [{"image_id": 3, "file_name": "a.png", "segments_info": []}]}
    with pytest.raises(DatasetError, match=r"panoptic segmentation.*export instances"):
        masks_of(written(tmp_path, panoptic))
