"""The walk of docs/annotate.md from frames to a second model, its commands in their order."""

import json
import re
import shlex
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as runs
from unet_kvasir_seg import evaluation, predict, train
from unet_kvasir_seg.data.synthetic import generate

ROOT = Path(__file__).parents[1]
COMMANDS = {"train.py": train.main, "predict.py": predict.main, "evaluation.py": evaluation.main}
TINY = ("--max_steps", "2", "--image_size", "32", "--per_device_train_batch_size", "2", "--use_cpu", "--bf16", "False")


def commands_of_the_walk() -> list[list[str]]:
    text = (ROOT / "docs" / "annotate.md").read_text(encoding="utf-8")
    walk = text.split("## The walk\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", walk, flags=re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.strip()]


def write_frames(folder: Path, count: int, seed: int) -> dict[str, np.ndarray]:
    """Frames as files; their masks by the files' names."""
    folder.mkdir(parents=True)
    masks = {}
    for number, sample in enumerate(generate(count, 64, seed=seed)):
        name = f"frame {seed}-{number}.png"
        sample["image"].save(folder / name)
        masks[name] = np.array(sample["mask"]) > 127
    return masks


def annotate(images: list[dict], masks: dict[str, np.ndarray]) -> dict:
    """What a person draws: the true masks of some images, as COCO, encoded by pycocotools."""
    annotations = []
    for image in images:
        mask = masks[Path(image["file_name"]).name]
        segmentation = runs.encode(np.asfortranarray(mask, np.uint8))
        segmentation["counts"] = segmentation["counts"].decode()
        box = [float(value) for value in runs.toBbox(segmentation)]
        annotation = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": 1, "bbox": box}
        annotations.append(annotation | {"segmentation": segmentation, "area": int(mask.sum()), "iscrowd": 0})
    categories = [{"id": 1, "name": "polyp", "supercategory": ""}]
    return {"images": images, "annotations": annotations, "categories": categories}


def test_from_frames_to_a_second_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first = write_frames(Path("path/to/images"), 10, seed=1)
    more = write_frames(Path("path/to/more-frames"), 5, seed=2)
    listed = [{"id": 7 + i, "file_name": name, "width": 64, "height": 64} for i, name in enumerate(first)]
    Path("path/to/export.json").write_text(json.dumps(annotate(listed, first)))

    done = []
    for program, script, *flags in commands_of_the_walk():
        assert program == "python"
        if script == "train.py":
            flags += [*TINY, *(("--base_channels", "4") if "--model_name_or_path" not in flags else ())]
        with suppress(SystemExit):  # --check_data ends the program
            COMMANDS[script](flags)
        assert "error:" not in capsys.readouterr().err
        done.append(script)
        if "--annotations" in flags:  # the file that predict.py has written is corrected: images and ids stay
            marked = json.loads(Path("outputs/marked/annotations/coco.json").read_text())
            assert {image["file_name"] for image in marked["images"]} == set(more)
            Path("path/to/second-export.json").write_text(json.dumps(annotate(marked["images"], more)))
    assert done == ["train.py", "train.py", "predict.py", "predict.py", "train.py", "evaluation.py"]

    for name in more:
        assert Image.open(Path("outputs/marked/masks") / name).size == (64, 64)
    per_image = Path("outputs/evaluation/per_image.csv").read_text().splitlines()
    assert len(per_image) == 2  # the header, and the test sample of the five corrected ones
    assert f"{per_image[1].split(',')[0]}.png" in more
