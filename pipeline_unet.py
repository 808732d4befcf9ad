"""The pipeline "image-segmentation" of the U-Net: images to masks of their own size, with scores.

    segment = pipeline("image-segmentation", model="me/unet-kvasir-seg", trust_remote_code=True)
    polyp = next(entry for entry in segment("frame.jpg") if entry["label"] == "polyp")
    polyp["mask"], polyp["score"]

The Hub runs this file without the rest of the project.
"""

import os
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers import BatchFeature, ImageSegmentationPipeline

# Axes of images (..., H, W) that test-time augmentation flips: none, width, height, both.
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))


class UNetImageSegmentationPipeline(ImageSegmentationPipeline):
    """Images to one mask and score for each label, by the model's own image processor.

    A call takes an image, as a PIL image, a path, a URL or in base64, and gives a list of two dicts, background
    then polyp, whatever the image shows; a list, a generator or a data set of images gives such a list for each.

    - `label`: the label's name in the model's config.
    - `mask`: PIL image of mode L, 255 inside and 0 elsewhere, of the image's own size, upright as its EXIF tag says.
      Together the two masks cover each pixel once.
    - `score`: of polyp the image processor's `presence`, the probability that the image shows a polyp at all; of
      background 1 minus that. Both are of the image, whatever the thresholds. Of an image in which nothing is found,
      the polyp mask is black.

    Arguments of the constructor or, with precedence, of a call:

    - `threshold`: a pixel is polyp if its probability is higher; in [0, 1], by default 0.5.
    - `peak_threshold`: and if the highest probability of its region is at least this; not below `threshold`. By
      default the image processor's own, if it has one.
    - `min_area`: and if its region has at least so many pixels of the image; by default 0.
    - `largest_lesion`: True keeps only the largest of those regions; by default False.
    - `tta`: test-time augmentation: the mean of the probabilities of the image and its three flips, for four times the
      work; by default False.
    - `field_of_view`: the rectangle that the network sees, as the image processor takes it: "none", "auto", or left,
      top, right and bottom in pixels. By default the image processor's own. Masks are of the whole image.
    - `subtask`: None or "semantic", which mean the same.
    - `timeout`: seconds to wait for an image from the web.
    - `batch_size`: images that the network takes at once, of any sizes.

    Raises:
        ValueError: Another `subtask`, an argument of other kinds of segmentation, a threshold outside [0, 1], a
            peak threshold below the threshold, a `min_area` that is no whole number, a `field_of_view` that does not
            lie within an image, or no image to be found.
        TypeError: An unknown argument, or an image of another type, such as an array, whose order of channels nobody
            knows.
    """

    # Classes of remote code, which transformers has no type for.
    model: Any
    image_processor: Any

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # The commands compute in this layout too. Another layout changes the last bits of a convolution's sums, and
        # one pixel in millions could then cross the threshold.
        self.model.to(memory_format=torch.channels_last)

    def check_model_type(self, supported_models: list[str] | dict) -> None:
        """Accept the model: the lists of transformers cannot name a class of remote code."""

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Segment an image, or each of several; see the class."""
        if isinstance(inputs, list | tuple):
            # transformers inspects the first entry to distinguish images from chats, and takes a tuple for one image.
            return super().__call__(list(inputs), **kwargs) if inputs else []
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self,
        subtask: str | None = None,
        threshold: float | None = None,
        timeout: float | None = None,
        peak_threshold: float | None = None,
        tta: bool | None = None,
        min_area: int | None = None,
        largest_lesion: bool | None = None,
        field_of_view: Any = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if subtask not in (None, "semantic"):
            raise ValueError(
                f'Got subtask={subtask!r}; expected "semantic" or none: this network tells polyp from background, '
                "and one polyp from another only where they do not touch."
            )
        for name in ("mask_threshold", "overlap_mask_area_threshold"):
            if name in kwargs:
                raise ValueError(
                    f"Got {name}, which this pipeline does not know; a pixel's probability is `threshold`."
                )
        if kwargs:
            raise TypeError(
                f"Got {', '.join(kwargs)}, which this pipeline does not know; it takes threshold, peak_threshold, "
                "min_area, largest_lesion, field_of_view, tta, subtask, timeout and batch_size."
            )
        reading = {"timeout": timeout, "field_of_view": field_of_view}
        preprocess = {name: value for name, value in reading.items() if value is not None}
        forward = {} if tta is None else {"tta": tta}
        options = {"threshold": threshold, "peak_threshold": peak_threshold}
        options |= {"min_area": min_area, "largest_lesion": largest_lesion}
        postprocess = {name: value for name, value in options.items() if value is not None}
        return preprocess, forward, postprocess

    def preprocess(  # type: ignore[override]
        self,
        image: "str | os.PathLike[str] | Image.Image",
        timeout: float | None = None,
        field_of_view: Any = None,
    ) -> BatchFeature:
        """One image -> `pixel_values` (1, 3, h, w) in the model's dtype, its own height and width, and its field."""
        if isinstance(image, str | os.PathLike):
            # Not an import: of a folder, transformers 4.57 copies only what the model's and the pipeline's files name.
            image = self.image_processor.open_image(image, timeout)
        elif not isinstance(image, Image.Image):
            raise TypeError(
                f"Got an image of type {type(image).__name__}; expected a PIL image, a path, a URL or base64. "
                "Image.fromarray makes a PIL image of an RGB array."
            )
        image = ImageOps.exif_transpose(image)  # type: ignore[arg-type]
        size = image.height, image.width
        if image.mode == "F":
            image = self.image_processor.upright(image)  # brings floats from 0..1 to grey levels
        (box,) = self.image_processor.fields_of_view(image, field_of_view)
        inputs = self.image_processor(image, return_tensors="pt", field_of_view=box or "none").to(self.dtype)
        inputs["target_size"], inputs["field_of_view"] = [size], [box]
        return inputs

    def _forward(self, model_inputs: Any, tta: bool = False) -> Any:  # type: ignore[override]
        """`pixel_values` (B, 3, h, w) -> `logits` (B, F, h, w) of the image and, with `tta`, its flips turned back."""
        pixel_values = model_inputs["pixel_values"]
        logits = [self.model(pixel_values.flip(axes)).logits.flip(axes) for axes in (FLIPS if tta else FLIPS[:1])]
        unchanged = {name: model_inputs[name] for name in ("target_size", "field_of_view")}
        return {"logits": torch.cat(logits, dim=1), **unchanged}

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: Any,
        threshold: float = 0.5,
        peak_threshold: float | None = None,
        min_area: int = 0,
        largest_lesion: bool = False,
    ) -> list[dict[str, Any]]:
        """Logits (1, F, h, w) of one image -> an entry for each label, at the image's own size."""
        flips = model_outputs["logits"].split(1, dim=1)
        places = model_outputs["target_size"], model_outputs["field_of_view"]
        maps = [self.image_processor.polyp_probabilities(logits, *places)[0] for logits in flips]
        probability = sum(maps) / len(maps)
        mask = self.image_processor.polyp_mask(probability, threshold, peak_threshold, min_area, largest_lesion)
        presence = self.image_processor.presence(probability)
        scores = (1 - presence, presence)
        return [
            {"label": name, "mask": to_image(mask == label), "score": scores[label]}
            for label, name in sorted(self.model.config.id2label.items())
        ]


def to_image(mask: Tensor) -> Image.Image:
    """A mask (H, W) bool as an image of mode L, 255 inside and 0 elsewhere."""
    return Image.fromarray(mask.byte().mul(255).numpy())
