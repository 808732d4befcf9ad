"""Synthetic clips: a camera that moves over a scene with polyps, which come into view and leave it.

    for clip in generate_clips(num_clips=20, polyps=1, seed=0):
        for frame in clip.frames():
            frame.image, frame.labels  # PIL RGB and (H, W) uint8: 0, or the number of a polyp

    samples = clip_samples(2000, 288, seed=0)  # dicts: "image", "mask", "sequence", "frame"

A scene is painted as the frames of synthetic.py are, but several times as large. The camera pans, turns and zooms
smoothly; each frame has noise and a brightness of its own.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image

from . import synthetic

SCENE = (1.6, 2.6)  # height and width of the scene / those of a frame
POLYP_AREA = 0.02  # median share of the scene's short square
ZOOM = 0.15  # the camera's view is between 1 - ZOOM and 1 + ZOOM times a frame
TURN = math.radians(12)
NOISE = 3.0  # grey levels
FLICKER = 0.03  # of the brightness
NUM_FRAMES, RATE = 100, 25.0  # of a clip; frames per second
SAMPLED_POLYPS = (1, 0, 2, 0)  # in the clips of `clip_samples`, in turn


@dataclass(frozen=True)
class ClipFrame:
    """A frame of a clip.

    Attributes:
        image: RGB.
        labels: (H, W) uint8: 0 is background, 1 and higher the number of a polyp.
    """

    image: Image.Image
    labels: np.ndarray


@dataclass(frozen=True)
class Clip:
    """A clip, whose frames are made when they are asked for.

    Attributes:
        scene, labels: What the camera moves over: RGB, and mode L with the numbers of the polyps.
        views: (N, 4) where each frame looks: x and y of its centre in pixels of the scene, angle, and scale.
        visible: (H, W) bool, the part of a frame that shows the scene.
        rate: Frames per second.
        seed: Of the frames' noise.
    """

    scene: Image.Image
    labels: Image.Image
    views: np.ndarray
    visible: np.ndarray
    rate: float
    seed: list[int]

    def frames(self) -> Iterator[ClipFrame]:
        """The frames, in order."""
        height, width = self.visible.shape
        rng = np.random.default_rng([*self.seed, 1])
        for x, y, angle, scale in self.views.tolist():
            cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
            # From a frame's pixel to the scene's: turned and scaled around the frame's centre.
            left = x - (cosine * width - sine * height) / 2
            top = y - (sine * width + cosine * height) / 2
            affine = (cosine, -sine, left, sine, cosine, top)
            size, method = (width, height), Image.Transform.AFFINE
            image = self.scene.transform(size, method, affine, Image.Resampling.BILINEAR)
            labels = self.labels.transform(size, method, affine, Image.Resampling.NEAREST)
            pixels = np.asarray(image, np.float32) * (1 + rng.normal(0, FLICKER))
            pixels += NOISE * rng.standard_normal(pixels.shape, np.float32)
            pixels *= self.visible[..., None]
            yield ClipFrame(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), np.asarray(labels) * self.visible)


def generate_clips(
    num_clips: int,
    *,
    num_frames: int = NUM_FRAMES,
    size: tuple[int, int] = (288, 384),
    polyps: int | Sequence[int] = 1,
    rate: float = RATE,
    seed: int = 0,
) -> Iterator[Clip]:
    """Yield clips. Clip i depends on the seed, i and the other arguments alone.

    Args:
        num_clips: How many.
        num_frames: Of each clip.
        size: Height and width of a frame, in pixels; at least 32.
        polyps: Number of polyps in each scene, or several numbers, which take turns. The camera passes over all of
            them.
        rate: Frames per second.
        seed: Of all randomness.

    Raises:
        ValueError: If a number or a size is too small.
    """
    counts = [polyps] if isinstance(polyps, int) else list(polyps)
    if num_clips < 1 or num_frames < 1 or min(counts) < 0 or min(size) < synthetic.MIN_SIZE or rate <= 0:
        raise ValueError(
            f"got num_clips {num_clips}, num_frames {num_frames}, polyps {polyps}, size {size} and rate {rate}; "
            f"expected at least 1, 1, 0, {synthetic.MIN_SIZE} pixels a side and more than 0"
        )
    turns = islice(cycle(counts), num_clips)
    return (_clip([seed, index], num_frames, size, count, rate) for index, count in enumerate(turns))


def clip_samples(num_samples: int, height: int = 288, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the frames of clips of `NUM_FRAMES` each, half of which show no polyp, as samples of a data set.

    Args:
        num_samples: How many at least: the last clip is complete.
        height: Of a frame in pixels; it is 4/3 as wide.
        seed: Of all randomness.

    Yields:
        {"image": PIL RGB, "mask": PIL L of 0 and 255, "sequence": name of the clip, "frame": its number there}.

    Raises:
        ValueError: If a number is too small.
    """
    num_clips = math.ceil(num_samples / NUM_FRAMES)
    size = (height, round(height * 4 / 3))
    clips = generate_clips(num_clips, num_frames=NUM_FRAMES, size=size, polyps=SAMPLED_POLYPS, seed=seed)
    for index, clip in enumerate(clips):
        for number, frame in enumerate(clip.frames()):
            mask = Image.fromarray((frame.labels > 0).astype(np.uint8) * 255)
            yield {"image": frame.image, "mask": mask, "sequence": f"clip-{index:04}", "frame": number}


def _clip(seed: list[int], num_frames: int, size: tuple[int, int], polyps: int, rate: float) -> Clip:
    rng = np.random.default_rng(seed)
    height, width = (round(share * side) for share, side in zip(SCENE, size, strict=True))
    # In units of the scene's short side / 2, from its centre; apart from each other along the camera's way.
    reach_x = width / min(height, width)
    places = [
        (reach_x * 0.7 * ((2 * number + 1) / polyps - 1) + rng.uniform(-0.1, 0.1), rng.uniform(-0.35, 0.35))
        for number in range(polyps)
    ]
    scene, labels = synthetic.paint_scene(rng, height, width, places, POLYP_AREA)
    views = _camera(rng, num_frames, size, (height, width))
    return Clip(scene, Image.fromarray(labels), views, synthetic.visible_part(rng, *size), rate, seed)


def _camera(rng: Generator, num_frames: int, size: tuple[int, int], scene: tuple[int, int]) -> np.ndarray:
    """The views of a camera that passes over the scene from one end to the other."""
    height, width = size
    time = np.linspace(0, 1, num_frames)
    swings = [np.sin(2 * math.pi * (rng.uniform(0.5, 2) * time + rng.random())) for _ in range(4)]
    first, last = 0.6 * width, scene[1] - 0.6 * width
    way = time + 0.06 * (swings[0] - np.linspace(swings[0][0], swings[0][-1], num_frames))
    if rng.random() < 0.5:
        way = 1 - way
    x = first + (last - first) * way
    y = scene[0] / 2 + 0.15 * height * swings[1]
    return np.stack([x, y, TURN * swings[2], 1 + ZOOM * swings[3]], axis=1)
