"""VIA 2 (VGG Image Annotator): a project with polygons, which have no holes."""

from collections.abc import Iterable, Iterator
from typing import Any

from .frames import AnnotatedFrame
from .options import Options, separated, to_json

NO_SIZE = -1  # of an image's file, as VIA has it for images that are named by their paths
SETTINGS = {"ui": {}, "core": {"default_filepath": ""}, "project": {"name": "predictions"}}


def files(frames: Iterable[AnnotatedFrame], options: Options) -> Iterator[tuple[str, Iterable[str]]]:
    yield "via.json", _content(frames, options)


def _content(frames: Iterable[AnnotatedFrame], options: Options) -> Iterator[str]:
    names: list[str] = []
    label = {
        "type": "dropdown",
        "description": "",
        "options": {options.label: ""},
        "default_options": {options.label: True},
    }
    score = {"type": "text", "description": "mean probability", "default_value": ""}
    attributes = {"region": {"label": label, "score": score}, "file": {}}
    yield f'{{"_via_settings":{to_json(SETTINGS)},"_via_attributes":{to_json(attributes)},\n'
    yield '"_via_data_format_version":"2.0.10","_via_img_metadata":{\n'
    yield from separated(_entry(frame, options, names) for frame in frames)
    yield f'\n}},\n"_via_image_id_list":{to_json(names)}}}\n'


def _entry(frame: AnnotatedFrame, options: Options, names: list[str]) -> str:
    names.append(f"{frame.name}{NO_SIZE}")
    regions = list(_regions(frame, options))
    entry = {"filename": frame.name, "size": NO_SIZE, "regions": regions, "file_attributes": {}}
    return f"{to_json(names[-1])}:{to_json(entry)}"


def _regions(frame: AnnotatedFrame, options: Options) -> Iterator[dict[str, Any]]:
    for region in frame.regions:
        options.filled += region.holes
        attributes = {"label": options.label} | ({} if region.score is None else {"score": str(region.score)})
        for polygon in region.polygons:
            x, y = polygon.exterior.round(2).T.tolist()
            shape = {"name": "polygon", "all_points_x": x, "all_points_y": y}
            yield {"shape_attributes": shape, "region_attributes": attributes}
