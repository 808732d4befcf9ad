"""Writes the examples that visitors can try: a few images, and a clip that moves across the first of them."""

from collections.abc import Sequence
from pathlib import Path

import av
from PIL import Image

CLIP_SIZE = (384, 288)  # width and height in pixels; smaller than the images
CLIP_FRAMES, CLIP_RATE = 50, 25


def write_examples(images: Sequence[Image.Image], folder: Path) -> tuple[list[Path], Path]:
    """Write the images as JPEG files, and the clip; returns their paths.

    Args:
        images: RGB, at least one, of `CLIP_SIZE` or larger.
        folder: Where to write.
    """
    files = [folder / f"synthetic-{number}.jpg" for number in range(1, len(images) + 1)]
    for image, file in zip(images, files, strict=True):
        image.save(file, quality=92)
    clip = folder / "synthetic.mp4"
    with Image.open(files[0]) as image:
        write_clip(image, clip)
    return files, clip


def write_clip(image: Image.Image, path: Path) -> None:
    """Write a video whose frames are windows of the image, from its top left corner to its bottom right corner."""
    width, height = CLIP_SIZE
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=CLIP_RATE, bit_rate=2_000_000)
        stream.width, stream.height = width, height
        for number in range(CLIP_FRAMES):
            share = number / (CLIP_FRAMES - 1)
            left, top = round(share * (image.width - width)), round(share * (image.height - height))
            window = image.crop((left, top, left + width, top + height))
            container.mux(stream.encode(av.VideoFrame.from_image(window)))
        container.mux(stream.encode())
