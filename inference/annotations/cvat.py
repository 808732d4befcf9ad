"""CVAT for images 1.1: XML with polygons, or masks as run lengths within the region's box. Polygons have no holes."""

from collections.abc import Iterable, Iterator
from xml.sax.saxutils import escape, quoteattr

from .frames import AnnotatedFrame, Region
from .options import Options, text_name
from .run_lengths import run_lengths

# CVAT keeps attributes that the label of the task has too, and drops others.
SCORE = "<attribute><name>score</name><mutable>False</mutable><input_type>text</input_type></attribute>"


def files(frames: Iterable[AnnotatedFrame], options: Options) -> Iterator[tuple[str, Iterable[str]]]:
    yield "cvat.xml", _content(frames, options)


def _content(frames: Iterable[AnnotatedFrame], options: Options) -> Iterator[str]:
    label = f"<label><name>{escape(options.label)}</name><attributes>{SCORE}</attributes></label>"
    yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
    yield f"<meta><task><labels>{label}</labels></task></meta>\n"
    group = 0
    for number, frame in enumerate(frames):
        name = quoteattr(text_name(frame, "CVAT's XML"))
        yield f'<image id="{number}" name={name} width="{frame.width}" height="{frame.height}">\n'
        for region in frame.regions:
            is_group = len(region.polygons) > 1 and not options.masks
            group += is_group
            shared = f'label={quoteattr(options.label)} source="auto" occluded="0" z_order="0"'
            yield from _shapes(region, f'{shared} group_id="{group}"' if is_group else shared, options)
        yield "</image>\n"
    yield "</annotations>\n"


def _shapes(region: Region, attributes: str, options: Options) -> Iterator[str]:
    score = "" if region.score is None else f'<attribute name="score">{region.score}</attribute>'
    if options.masks:
        rle = ", ".join(map(str, run_lengths(region.inside)))
        box = f'left="{region.left}" top="{region.top}" width="{region.width}" height="{region.height}"'
        yield f'<mask {attributes} rle="{rle}" {box}>{score}</mask>\n'
        return
    options.filled += region.holes
    for polygon in region.polygons:
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in polygon.exterior)
        yield f'<polygon {attributes} points="{points}">{score}</polygon>\n'
