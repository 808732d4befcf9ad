"""Image processor of the U-Net: images and masks to tensors, logits back to masks at the original size.

    processor = UNetImageProcessor()
    batch = processor(images, segmentation_maps=masks, return_tensors="pt")  # pixel_values, labels
    masks = processor.post_process_semantic_segmentation(model(batch.pixel_values), target_sizes=[(288, 384)])

The Hub runs this file, with regions_unet.py and field_of_view_unet.py, without the rest of the project.
"""

import base64
import io
import os
import urllib.request
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import (
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    infer_channel_dimension_format,
)
from transformers.utils import logging

from .field_of_view_unet import Box, box_within, choose_box, read_field_of_view
from .regions_unet import (
    check_calibration,
    check_input_size,
    check_region_options,
    check_thresholds,
    keep_large,
    keep_peaks,
    presence_of,
)

try:
    from transformers.image_processing_backends import TorchvisionBackend
except ImportError:  # transformers 4.57
    from transformers.image_processing_utils_fast import (  # type: ignore[no-redef]
        BaseImageProcessorFast as TorchvisionBackend,
    )

try:
    from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
except ImportError:  # transformers 4.57

    class SemanticSegmentationPostProcessorOutput(BatchFeature):  # type: ignore[no-redef]
        """`segmentation` (H, W) and `segmentation_scores` (classes, H, W), as transformers 5 defines it."""


logger = logging.get_logger(__name__)

# A file's content chooses the decoder, and some of Pillow's start programs (EPS: Ghostscript).
IMAGE_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAX_DOWNLOAD_BYTES = 2**29

# Grey, grey and alpha, RGB, RGB and alpha.
CHANNEL_COUNTS = (1, 2, 3, 4)

# A mask saved as a colour JPEG may carry a slight tint; a coloured class differs by far more grey levels.
MAX_TINT = 32

# Floats are grey levels even if they go beyond 0 to 255 by so much, as resizing with a sharp filter leaves them.
MAX_OVERSHOOT = 16

# A map of labels has fewer values; noise that could be taken for labels has more (65 were the least seen).
MAX_CLASSES = 32


class UNetImageProcessor(TorchvisionBackend):
    """
    Prepare images, and masks with them, for the U-Net, and turn its logits into masks.

    By default an image is converted to RGB, resized to 256x256 (bilinear, antialiased) and scaled to [0, 1].
    Every setting is an argument of the constructor, is saved to `preprocessor_config.json`, and may be
    overridden in a call.

    Args:
        do_convert_rgb (`bool`, defaults to `True`): make every image three channels; alpha is dropped.
        do_resize (`bool`, defaults to `True`): resize to `size`.
        size (`dict[str, int]`, defaults to `{"height": 256, "width": 256}`): output size in pixels.
        resample (`PILImageResampling`, defaults to `BILINEAR`): filter for images; masks always take
            the nearest pixel.
        do_rescale (`bool`, defaults to `True`): multiply by `rescale_factor`.
        rescale_factor (`float`, defaults to `1 / 255`): brings grey levels 0..255 to [0, 1].
        do_normalize (`bool`, defaults to `False`): subtract `image_mean`, divide by `image_std`.
        image_mean, image_std (`list[float]`, *optional*): per-channel values, in units of the rescaled image.
        peak_threshold (`float`, *optional*): a region of a mask counts only if its highest probability is at least
            this; see `post_process_semantic_segmentation`. By default every region counts.
        presence_calibration (`list[float]`, *optional*): scale and offset of `presence`.
        field_of_view (`str` or `list[int]`, *optional*): the rectangle of a frame that the network sees; masks are of
            the frame, 0 outside. `None` or `"none"`: all of it. `"auto"`: the picture, without a black border and the
            text in it, where `find_field_of_view` is sure of it. Or left, top, right and bottom in pixels, right and
            bottom the first outside.
        frame_statistics (`dict`, *optional*): quantiles of colour and sharpness of the frames that the network was
            trained on, for the project's `predict.py`; nothing here depends on them.
    """

    do_convert_rgb = True
    do_resize = True
    size = {"height": 256, "width": 256}  # noqa: RUF012 - the base class copies it to each instance
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = False
    peak_threshold: float | None = None
    presence_calibration: list[float] | None = None
    field_of_view: str | Sequence[int] | None = None
    frame_statistics: dict[str, Any] | None = None

    def __init__(self, **kwargs: Any):
        """
        Take the settings of the class.

        Raises:
            ValueError: `peak_threshold` is no probability, `presence_calibration` is not two finite numbers,
                `field_of_view` is no such setting, or `size` is not a height and a width, or too large.
        """
        super().__init__(**kwargs)
        check_input_size(dict(self.size or {}))
        check_thresholds(0.0, self.peak_threshold)
        check_calibration(self.presence_calibration)
        read_field_of_view(self.field_of_view)

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make the processor of saved settings; those given beside them take precedence."""
        # transformers does not know these settings, and would warn of them.
        own = ("peak_threshold", "presence_calibration", "field_of_view")
        given: dict[str, Any] = {name: kwargs.pop(name) for name in own if name in kwargs}
        return super().from_dict({**image_processor_dict, **given}, **kwargs)

    def preprocess(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None = None,
        return_tensors: str | None = None,
        *,
        foreground_values: Sequence[int] | None = None,
        mask_threshold: float | None = None,
        field_of_view: str | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Turn images, and masks if given, into tensors of the model's size.

        Args:
            images: one image or a (nested) list: PIL, numpy, torch, or path; (H, W), (C, H, W) or (H, W, C)
                with 1 to 4 channels, or a batch with one more dimension. Grey levels 0..255; uint16 and PIL
                modes `I` and `I;16` are 16-bit, 0..65535, and are scaled to 0..255. EXIF rotation is applied.
            segmentation_maps: as many masks as images, each the size of its image; see `binarize_mask`.
            return_tensors: `"pt"` stacks the results into batches; `None` returns lists of tensors.
            foreground_values: mask values that mean polyp. It describes a data set, so it is never saved.
            mask_threshold: mask values above this mean polyp, as in `binarize_mask`; never saved either.
            field_of_view: in place of the processor's own, which `None` takes. Images and masks are cropped alike.
            **kwargs: any setting of the class, `input_data_format` (`"channels_first"` or `"channels_last"`,
                for array images whose shape is ambiguous), or `device`.

        Returns:
            `pixel_values` (B, 3, H, W) float32 (images of integers stay uint8 where neither rescaled nor
            normalised) and, with masks, `labels` (B, H, W) int64 in {0, 1}.

        Raises:
            ValueError: no image; an image of unknown layout or value range; not one mask per image; a mask of
                another size than its image, or with another EXIF tag, so that nobody knows whether they fit; a mask
                that `binarize_mask` refuses; images of different sizes stacked without resizing; a field of view that
                does not lie within an image.
        """
        if return_tensors is not None:
            kwargs["return_tensors"] = return_tensors
        setting = self.field_of_view if field_of_view is None else field_of_view
        return super().preprocess(images, segmentation_maps, foreground_values, mask_threshold, setting, **kwargs)

    def fields_of_view(
        self,
        images: ImageInput,
        field_of_view: str | Sequence[int] | None = None,
        input_data_format: str | ChannelDimension | None = None,
    ) -> list[Box | None]:
        """
        The rectangle of each image that `preprocess` crops it to, for `post_process_semantic_segmentation`.

        Args:
            images, field_of_view, input_data_format: as for `preprocess`.

        Returns:
            For each image left, top, right and bottom in pixels, right and bottom the first outside; `None` where all
            of the image is seen.

        Raises:
            ValueError: as `preprocess`.
        """
        setting = self.field_of_view if field_of_view is None else field_of_view
        fetched = [self.fetch_images(image) for image in _flatten(images)]
        return _boxes_of([_image_to_tensor(image, True, input_data_format, None) for image in fetched], setting)

    def upright(self, image: Any) -> torch.Tensor:
        """
        Decode one image, rotated as its EXIF tag says, at its original size.

        Floats within [0, 1] are read as black to white, and a warning says so; others are grey levels.

        Returns:
            (3, H, W) uint8 grey levels; of an image of floats (3, H, W) float32, from 0 to 255.

        Raises:
            ValueError: as `preprocess`; or the floats are in another range.
        """
        unchanged: dict[str, Any] = {"do_resize": False, "do_rescale": False, "do_normalize": False}
        pixels = self.preprocess(image, field_of_view="none", **unchanged)["pixel_values"][0]
        return _floats_to_grey_levels(pixels) if pixels.is_floating_point() else pixels

    def resize_mask(self, mask: np.ndarray) -> torch.Tensor:
        """
        Resize a mask alone, as `preprocess` resizes it together with its image.

        Args:
            mask: (H, W), boolean or {0, 1}; of the field of view, if the image is cropped to one.

        Returns:
            (h, w) uint8 in {0, 1}.
        """
        resized = self.preprocess(
            mask.astype(np.uint8),
            do_convert_rgb=False,
            do_rescale=False,
            do_normalize=False,
            resample=InterpolationMode.NEAREST_EXACT,
            return_tensors="pt",
            field_of_view="none",
        )
        return resized["pixel_values"][0, 0]

    def to_dict(self) -> dict[str, Any]:
        """All settings as `preprocessor_config.json` holds them."""
        settings = super().to_dict()
        # `auto_map` names the class already; this entry makes transformers 4.57 warn of a slow image processor.
        settings.pop("image_processor_type", None)
        return settings

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open files as they are: the library's loader turns palette and 16-bit files into RGB."""
        if isinstance(image_url_or_urls, (str, os.PathLike)):
            return self.open_image(image_url_or_urls)
        return super().fetch_images(image_url_or_urls)

    def open_image(self, source: "str | os.PathLike[str]", timeout: float | None = None) -> Image.Image:
        """Open an image as it is, by path, URL or base64; see `load_image`."""
        return load_image(source, timeout)

    def _preprocess_image_like_inputs(  # type: ignore[override]
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None = None,
        foreground_values: Sequence[int] | None = None,
        mask_threshold: float | None = None,
        field_of_view: str | Sequence[int] | None = None,
        *,
        do_convert_rgb: bool,
        input_data_format: str | ChannelDimension | None,
        device: str | torch.device | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        fetched = [self.fetch_images(image) for image in _flatten(images)]
        if not fetched:
            raise ValueError("Got no image: expected at least one.")
        tags = [_tag_of(image) for image in fetched]  # first: Pillow drops that of a TIFF when it decodes the pixels
        tensors = [_image_to_tensor(image, do_convert_rgb, input_data_format, device) for image in fetched]
        if kwargs["do_rescale"]:
            _warn_if_already_rescaled(tensors)
        boxes = _boxes_of(tensors, field_of_view)
        seen = [_cropped(tensor, box) for tensor, box in zip(tensors, boxes, strict=True)]
        data = {"pixel_values": self._preprocess(seen, return_tensors=None, **kwargs)["pixel_values"]}

        if segmentation_maps is not None:
            maps = [self.fetch_images(one) for one in _split_maps(segmentation_maps, len(tensors))]
            map_tags = [_tag_of(one) for one in maps]
            masks = [
                _map_to_tensor(one, index, foreground_values, mask_threshold, device) for index, one in enumerate(maps)
            ]
            _check_tags(tensors, tags, masks, map_tags)
            _check_sizes(tensors, masks)
            masks = [_cropped(mask, box) for mask, box in zip(masks, boxes, strict=True)]
            data["labels"] = self._preprocess_masks(masks, **kwargs)

        if return_tensors is not None:
            data = {name: _stack(values) for name, values in data.items()}
        return BatchFeature(data, tensor_type=return_tensors)

    def _preprocess_masks(self, masks: list[torch.Tensor], **kwargs: Any) -> list[torch.Tensor]:
        """(1, H, W) masks -> labels (H', W') int64, by the geometry of the images."""
        # The filter is called `resample` in transformers 5, `interpolation` in 4.57.
        kwargs["resample"] = kwargs["interpolation"] = InterpolationMode.NEAREST_EXACT
        kwargs["do_rescale"] = kwargs["do_normalize"] = False
        resized = self._preprocess(masks, return_tensors=None, **kwargs)["pixel_values"]
        return [mask[0].to(torch.int64) for mask in resized]

    def polyp_probabilities(
        self,
        logits: torch.Tensor,
        target_sizes: Iterable[Sequence[int]] | torch.Tensor | None = None,
        fields_of_view: Sequence[Box | None] | None = None,
    ) -> list[torch.Tensor]:
        """
        Turn the model's logits into probabilities of polyp at the original sizes.

        Logits are resized in float32 (bilinear, `align_corners=False`), then the sigmoid is taken. Outside of an
        image's field of view, the probability is 0.

        Args:
            logits: (B, 1, h, w).
            target_sizes: B pairs (height, width) in pixels, a list or a (B, 2) tensor; `None` keeps (h, w), of the
                field of view alone.
            fields_of_view: of the B images, as the method of this name gives them. `None` takes the rectangle of the
                processor's `field_of_view`, if that is one.

        Returns:
            B maps (H, W), float32.

        Raises:
            ValueError: logits of another shape; a wrong number of target sizes or fields of view; one of these that
                does not lie within its image, or none while the processor's `field_of_view` is "auto".
        """
        if logits.ndim != 4 or logits.shape[1] != 1:
            raise ValueError(
                f"Got logits of shape {tuple(logits.shape)}; expected (batch, 1, height, width): "
                "this processor serves models with one foreground class."
            )
        if target_sizes is None:
            return list(logits.float()[:, 0].sigmoid())
        sizes = _target_sizes(target_sizes, logits)
        maps = []
        for logit, size, box in zip(logits.float(), sizes, self._boxes_within(fields_of_view, sizes), strict=True):
            seen = size if box is None else (box[3] - box[1], box[2] - box[0])
            resized = F.interpolate(logit[None], size=seen, mode="bilinear", align_corners=False)[0, 0].sigmoid()
            maps.append(resized if box is None else _in_whole_frame(resized, box, size))
        return maps

    def _boxes_within(
        self, fields_of_view: Sequence[Box | None] | None, sizes: Sequence[tuple[int, ...]]
    ) -> list[Box | None]:
        """The fields of view of images of these sizes (height, width): those given, or the processor's rectangle."""
        if fields_of_view is None:
            setting = read_field_of_view(self.field_of_view)
            if isinstance(setting, str):
                raise ValueError(
                    'The setting field_of_view="auto" needs the rectangle of each image, to bring its mask back into '
                    "the frame: pass fields_of_view=processor.fields_of_view(images)."
                )
            fields_of_view = [setting] * len(sizes)
        if len(fields_of_view) != len(sizes):
            raise ValueError(f"Got {len(fields_of_view)} fields of view; expected {len(sizes)}, one for each image.")
        boxes = [read_field_of_view(box) for box in fields_of_view]
        return [
            box_within(box, *size) if isinstance(box, tuple) else None for box, size in zip(boxes, sizes, strict=True)
        ]

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: Iterable[Sequence[int]] | torch.Tensor | None = None,
        threshold: float = 0.5,
        return_segmentation_scores: bool = False,
        peak_threshold: float | None = None,
        min_area: int = 0,
        largest_lesion: bool = False,
        fields_of_view: Sequence[Box | None] | None = None,
    ) -> "list[torch.Tensor] | list[SemanticSegmentationPostProcessorOutput]":
        """
        Turn the model's logits into masks at the original sizes.

        A pixel is polyp where its probability, as `polyp_probabilities` gives it, is above `threshold`. So a
        logit of 0 (probability 0.5) is background at the default threshold.

        With a `peak_threshold`, a region of such pixels, which touch at a side or a corner, is polyp only if its
        highest probability is at least that; of a frame without polyp, nothing may be left.

        Args:
            outputs: the model's output; `outputs.logits` is (B, 1, h, w).
            target_sizes: B pairs (height, width) in pixels, a list or a (B, 2) tensor; `None` keeps (h, w).
            threshold: probability in [0, 1].
            return_segmentation_scores: also return the probabilities.
            peak_threshold: probability in [0, 1], not below `threshold`; equal to it, every region is kept. `None`
                takes the processor's own, which may be `None` too: then every region is kept.
            min_area: pixels of the mask that a region must have to be polyp; by default one is enough.
            largest_lesion: whether, of the regions that are left, only the largest is polyp.
            fields_of_view: as for `polyp_probabilities`; needed if the processor's `field_of_view` is "auto".

        Returns:
            B masks (H, W), int64 in {0, 1}; with scores B `SemanticSegmentationPostProcessorOutput`, each
            with the mask as `segmentation` and, as `segmentation_scores` (2, H, W), the probabilities of
            background and polyp.

        Raises:
            ValueError: as `polyp_probabilities`; a threshold outside [0, 1], a peak threshold below `threshold`, or a
                `min_area` that is no whole number of pixels.
        """
        probabilities = self.polyp_probabilities(outputs.logits, target_sizes, fields_of_view)
        how = (threshold, peak_threshold, min_area, largest_lesion)
        masks = [self.polyp_mask(probability, *how) for probability in probabilities]
        if not return_segmentation_scores:
            return masks
        return [
            SemanticSegmentationPostProcessorOutput(
                {"segmentation": mask, "segmentation_scores": torch.stack([1 - probability, probability])}
            )
            for mask, probability in zip(masks, probabilities, strict=True)
        ]

    def polyp_mask(
        self,
        probability: torch.Tensor,
        threshold: float = 0.5,
        peak_threshold: float | None = None,
        min_area: int = 0,
        largest_lesion: bool = False,
    ) -> torch.Tensor:
        """
        Turn a map of probabilities into a mask, as `post_process_semantic_segmentation` does.

        Args:
            probability: (H, W) float, as `polyp_probabilities` gives it.
            threshold, peak_threshold, min_area, largest_lesion: as for `post_process_semantic_segmentation`.

        Returns:
            (H, W) int64 in {0, 1}, on the map's device.

        Raises:
            ValueError: a threshold outside [0, 1], a peak threshold below `threshold`, or a `min_area` that is no
                whole number of pixels.
        """
        if peak_threshold is None:
            peak_threshold = self.peak_threshold
        check_thresholds(threshold, peak_threshold)
        check_region_options(min_area, largest_lesion)
        keeps_all = peak_threshold is None or peak_threshold <= threshold
        if keeps_all and min_area <= 1 and not largest_lesion:
            return (probability > threshold).to(torch.int64)
        mask = keep_peaks(probability.detach().cpu().numpy(), threshold, peak_threshold)
        keep_large(mask, min_area, largest_lesion)
        return torch.from_numpy(mask).to(probability.device, torch.int64)

    def presence(self, probability: "torch.Tensor | np.ndarray") -> float:
        """
        The probability that a frame shows a polyp at all.

        Args:
            probability: (H, W) float, as `polyp_probabilities` gives it.

        Returns:
            `presence_of` its maximum, by the setting `presence_calibration`.

        Raises:
            ValueError: the setting is not two finite numbers.
        """
        check_calibration(self.presence_calibration)
        return presence_of(float(probability.max()), self.presence_calibration)


def load_image(source: "str | os.PathLike[str]", timeout: float | None = None) -> Image.Image:
    """
    Open an image as it is: by its path, its URL, or its bytes in base64.

    The library's `load_image` would run any decoder of Pillow's that the content asks for.

    Args:
        source: path, URL, or base64 with or without "data:image/...;base64," in front.
        timeout: seconds to wait for a server.

    Raises:
        OSError: a file or URL that cannot be read, or holds no image of `IMAGE_FORMATS`.
        ValueError: neither a path, nor a URL, nor base64; or a download of more than `MAX_DOWNLOAD_BYTES`.
    """
    if os.path.isfile(source):
        return _open(source)
    source = os.fspath(source)
    if source.startswith(("http://", "https://")):
        content = _download(source, timeout)
    else:
        try:
            content = base64.b64decode(source.rsplit(",")[-1].encode(), validate=True)
        except ValueError as error:
            raise ValueError(f"Got {source[:100]!r}; expected the path of a file, a URL, or base64.") from error
    return _open(io.BytesIO(content))


def _open(file: "str | os.PathLike[str] | io.BytesIO") -> Image.Image:
    Image.init()
    return Image.open(file, formats=[name for name in IMAGE_FORMATS if name in Image.OPEN])  # AVIF: Pillow 11.3


def _download(url: str, timeout: float | None) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "unet-kvasir-seg"})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        content = response.read(MAX_DOWNLOAD_BYTES + 1)
    if len(content) > MAX_DOWNLOAD_BYTES:
        raise ValueError(f"Got more than {MAX_DOWNLOAD_BYTES} bytes from {url}; expected an image.")
    return content


def binarize_mask(
    mask: Any, foreground_values: Sequence[int] | None = None, threshold: float | None = None
) -> np.ndarray:
    """
    Read a mask as polyp (1) and background (0).

    - With `foreground_values`: those values are polyp, every other value is background.
    - With `threshold`: levels above it are polyp, whatever lies between black and white.
    - Values within {0, 1} (so a mask of mode `1`, or of booleans) are taken as they are.
    - Two levels of grey, with the noise that JPEG leaves around edges: polyp is above 127.

    Anything else would be a guess, and is refused. A third class is distinguished from JPEG noise by where it
    lies: noise stays on edges, a class fills regions.

    Args:
        mask: PIL, numpy or torch; (H, W), (1, H, W), (H, W, 1), or three (nearly) equal channels, first or
            last; see `mask_levels` for palettes. EXIF rotation is applied.
        foreground_values: integers, at least one.
        threshold: grey level of 8 bits, 0 or from 1 to below 255: 16-bit levels, floats within [0, 1] and booleans are
            scaled to 0..255 first.

    Returns:
        (H, W) uint8 array of {0, 1}.

    Raises:
        ValueError: the mask has another shape, is in colour, is partly transparent, or has other values than
            those above; `foreground_values` is empty; or both it and `threshold` are given.
    """
    if threshold is not None:
        if foreground_values is not None:
            raise ValueError("Got foreground_values and a threshold of the mask, which exclude each other.")
        return (_levels_of_8_bits(mask, threshold) > threshold).astype(np.uint8)
    if foreground_values is not None:
        if len(foreground_values) == 0:
            raise ValueError("Got no value in foreground_values; expected what means polyp, e.g. [1, 2].")
        return np.isin(mask_levels(mask, foreground_values), list(foreground_values)).astype(np.uint8)
    levels = mask_levels(mask)
    if ((levels == 0) | (levels == 1)).all():
        return levels.astype(np.uint8)
    if not _is_two_level_grey(levels):
        raise ValueError(
            f"Cannot tell polyp from background in a mask with the values {_describe_values(levels)}. "
            "Expected 0 and 1, or two levels of grey, one dark (below 64) and one bright (above 191). Name "
            "the values that mean polyp, for example --foreground_values 1 2 on the command line or "
            "foreground_values=[1, 2] in Python. If the mask was blurred or enlarged smoothly, so that all levels "
            "occur along edges, say above which level is polyp: --mask_threshold 127 or mask_threshold=127."
        )
    return (levels > 127).astype(np.uint8)


def mask_levels(mask: Any, foreground_values: Sequence[int] | None = None) -> np.ndarray:
    """
    The values of a mask.

    Of a palette image they are the indices where an entry in use has a colour: a map of classes. Where all are grey,
    they are the greys that are shown: which of black and white has the lower index depends on the program that saved
    the file.

    Args:
        mask: as for `binarize_mask`.
        foreground_values: what the values are compared with. Of a grey palette, the indices are the values if one of
            them is among these.

    Returns:
        (H, W), of any type of numbers.

    Raises:
        ValueError: the mask has another shape, is in colour or is partly transparent, or it depends on the choice
            between indices and greys what `foreground_values` mean.
    """
    if not isinstance(mask, Image.Image):
        return _single_channel(mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask))
    mask = ImageOps.exif_transpose(mask)
    if mask.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        mask = mask.convert("RGB")
    levels = _single_channel(np.array(mask), ChannelDimension.LAST)
    return _palette_levels(levels, mask, foreground_values) if mask.mode in ("P", "PA") else levels


def _palette_levels(indices: np.ndarray, mask: Image.Image, foreground_values: Sequence[int] | None) -> np.ndarray:
    """The values of a palette mask by its indices (H, W), as `mask_levels` says."""
    palette = np.zeros((256, 3), np.uint8)
    stored = np.reshape(mask.getpalette() or [], (-1, 3))
    palette[: len(stored)] = stored
    greys, used = palette.max(axis=1), np.unique(indices)
    is_grey = greys - palette.min(axis=1) <= MAX_TINT
    if not is_grey[used].all():
        return indices
    if foreground_values is not None:
        by_index, by_grey = (np.isin(values, list(foreground_values)) for values in (used, greys[used]))
        begins_with_white = len(used) == 2 and greys[used[0]] > greys[used[1]]
        if by_index.any() and (by_index != by_grey).any() and (by_grey.any() or begins_with_white):
            raise ValueError(
                f"Got a palette mask whose indices {used.tolist()} are shown as the greys {greys[used].tolist()}: by "
                f"index the foreground values {list(foreground_values)} mean other pixels than by grey. Name the grey "
                "alone, or save the mask in grey levels."
            )
        return indices if by_index.any() else greys[indices]
    if used.max() <= 1 and is_grey[:2].all() and greys[0] < greys[1]:
        return indices  # 0 and 1, whatever grey the 1 is shown as
    if len(used) > 1 and len(np.unique(greys[used])) == 1:
        return indices  # the palette shows nothing
    return greys[indices]


def _levels_of_8_bits(mask: Any, threshold: float) -> np.ndarray:
    """The grey levels (H, W) of a mask on the scale 0 to 255, to be compared with a threshold."""
    if not (threshold == 0 or 1 <= threshold < 255):
        raise ValueError(f"Got the threshold {threshold} for masks; expected a grey level: 0, or from 1 to below 255.")
    if isinstance(mask, Image.Image) and mask.mode in ("P", "PA"):
        mask = ImageOps.exif_transpose(mask).convert("RGB" if mask.mode == "P" else "RGBA")  # what is shown
    levels = mask_levels(mask)
    low, high = float(levels.min()), float(levels.max())
    if not (low >= 0 and high <= 65535):  # NaN is neither
        raise ValueError(f"Got a mask with values from {low:g} to {high:g}; expected grey levels of 8 or 16 bits.")
    if levels.dtype == bool or (levels.dtype.kind == "f" and high <= 1):
        return levels * np.float32(255)
    if high == 1 and threshold >= 1:
        raise ValueError(
            f"Got a mask of 0 and 1, none of them above the threshold {threshold:g}; expected grey levels up to 255. "
            "Masks of 0 and 1 need no threshold."
        )
    return levels / np.float32(257) if high > 255 else levels


def _is_two_level_grey(levels: np.ndarray) -> bool:
    """
    Whether a mask (H, W) is one dark and one bright level, apart from noise on edges.

    Checked on Kvasir-SEG's masks, and on ellipses of 64x64 to 620x530 pixels saved as JPEG once or twice at
    quality 50 and above, cropped or resized in between: all are accepted.
    """
    if not (levels.min() >= 0 and 127 < levels.max() <= 255):
        return False
    grey = levels.astype(np.uint8)
    return not (_has_mid_grey_region(grey) or _has_third_class(grey))


def _has_mid_grey_region(grey: np.ndarray) -> bool:
    """Whether all pixels of some 4x4 block lie between the two levels: a third class, or a soft mask."""
    darkest, brightest = _block_extremes(grey, 4)
    return bool(((darkest >= 64) & (brightest <= 191)).any())


def _has_third_class(grey: np.ndarray) -> bool:
    """Whether a third value is a class of its own, even one near a level, such as {0, 1} with 255 for void."""
    between = grey[(grey != grey.min()) & (grey != grey.max())]
    counts = np.bincount(between)
    num_between = np.count_nonzero(counts)
    if num_between > MAX_CLASSES:
        return False  # JPEG noise: saving twice fills blocks with many different values
    if num_between <= 2 and counts.max(initial=0) > 0.01 * grey.size:
        return True  # noise with so few values (JPEG quality 99 and above) has fewer pixels of each
    darkest, brightest = _block_extremes(grey, 8)
    solid = np.unique(darkest[darkest == brightest])
    return bool((solid <= 127).sum() > 1 or (solid > 127).sum() > 1)


def _block_extremes(grey: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest level of each aligned block of `size` by `size` pixels; incomplete blocks are left out."""
    height, width = (length // size * size for length in grey.shape)
    blocks = grey[:height, :width]

    def fold(extreme: np.ufunc) -> np.ndarray:
        # Slices are an order of magnitude faster than reducing an axis of 4 or 8.
        bands = reduce(extreme, [blocks[i::size] for i in range(size)])
        return reduce(extreme, [bands[:, i::size] for i in range(size)])

    return fold(np.minimum), fold(np.maximum)


def _describe_values(levels: np.ndarray, limit: int = 10) -> str:
    """The values of a mask and their share of the pixels, in order: `0 (90.0 %), 1 (9.5 %), 255 (0.5 %)`."""
    values, counts = np.unique(levels, return_counts=True)
    shown = [f"{v:g} ({100 * n / levels.size:.1f} %)" for v, n in zip(values[:limit], counts, strict=False)]
    rest = [f"and {len(values) - limit} more up to {values[-1]:g}"] if len(values) > limit else []
    return ", ".join(shown + rest)


def _single_channel(array: np.ndarray, data_format: ChannelDimension | None = None) -> np.ndarray:
    """A mask (H, W), or with 1 to 4 nearly equal channels -> (H, W); alpha is dropped."""
    if array.size == 0 or array.ndim not in (2, 3):
        raise ValueError(f"Got a mask of shape {array.shape}; expected (height, width), or with channels.")
    if array.ndim == 2:
        return array
    planes = np.ascontiguousarray(np.moveaxis(array, -1, 0) if _is_channels_last(array, data_format) else array)
    if len(planes) in (2, 4):
        planes, alpha = planes[:-1], planes[-1]
        if alpha.min() != alpha.max():
            raise ValueError(
                "Got a mask that is partly transparent; expected the polyp in the grey levels. "
                "Save the mask as a single-channel image."
            )
    if all(np.array_equal(planes[0], plane) for plane in planes[1:]):
        return planes[0]
    # The brightest channel, so that a class written into one channel alone is not lost.
    brightest = planes.max(axis=0)
    tint = (brightest.astype(np.float32) - planes.min(axis=0)).max()
    if tint > MAX_TINT:
        raise ValueError(
            f"Got a mask in colour: its channels differ by up to {tint:g} grey levels. Expected one "
            "channel, or three equal ones. Save the mask as a single-channel image with one value for polyp."
        )
    return brightest


def _flatten(images: Any) -> list[Any]:
    """One flat list of single images from an image, nested lists or a batch (B, ., ., .)."""
    if isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) > 3:
        return [single for item in images for single in _flatten(item)]
    return [images]


def _split_maps(maps: Any, num_images: int) -> list[Any]:
    """One mask for each image; a lone (B, H, W) array is a batch where there are B images."""
    is_batch = getattr(maps, "ndim", 0) == 3 and len(maps) == num_images
    masks = list(maps) if is_batch else _flatten(maps)
    if len(masks) != num_images:
        raise ValueError(f"Got {len(masks)} segmentation maps for {num_images} images; expected one for each.")
    return masks


def _image_to_tensor(
    image: Any,
    do_convert_rgb: bool,
    input_data_format: str | ChannelDimension | None,
    device: str | torch.device | None,
) -> torch.Tensor:
    """Any single image -> (C, H, W), uint8 or float32, three channels with `do_convert_rgb`."""
    if isinstance(image, Image.Image):
        image = _pil_to_array(image, do_convert_rgb)
        input_data_format = ChannelDimension.LAST
    if not isinstance(image, torch.Tensor):
        # torch needs native byte order, positive strides and writable memory.
        image = torch.from_numpy(np.require(image, image.dtype.newbyteorder("="), ["C_CONTIGUOUS", "WRITEABLE"]))
    if image.numel() == 0 or image.ndim not in (2, 3):
        raise ValueError(f"Got an image of shape {tuple(image.shape)}; expected (height, width), or with channels.")
    if image.ndim == 2:
        image = image[None]
    elif _is_channels_last(image, input_data_format):
        image = image.permute(2, 0, 1)
    image = _to_grey_levels(image.to(device))
    return _to_rgb(image) if do_convert_rgb else image


def _pil_to_array(image: Image.Image, do_convert_rgb: bool) -> np.ndarray:
    """Upright (H, W) or (H, W, C) array; 16-bit images keep their depth, where `convert` would clip it."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "I":  # 32 bits in name, but Pillow also opens 16-bit files so
        array = np.array(image)
        if array.min() < 0 or array.max() > 65535:
            raise ValueError(
                f"Got an image of mode I with values from {array.min()} to {array.max()}; expected 16 bits, "
                "0 to 65535. Scale the image to that range."
            )
        return array.astype(np.uint16)
    keeps_mode = not do_convert_rgb or image.mode == "F" or image.mode.startswith("I;16")
    return np.array(image if keeps_mode or image.mode == "RGB" else image.convert("RGB"))


def _is_channels_last(
    image: np.ndarray | torch.Tensor, input_data_format: str | ChannelDimension | None = None
) -> bool:
    """Whether a 3-D array has its channels last: by its shape, unless given; if both could be, first."""
    if input_data_format is not None:
        return ChannelDimension(input_data_format) == ChannelDimension.LAST
    for counts in ((1, 3), CHANNEL_COUNTS):  # the usual ones first
        if image.shape[0] in counts or image.shape[-1] in counts:
            layout = infer_channel_dimension_format(image, counts)  # type: ignore[arg-type]
            return layout == ChannelDimension.LAST
    raise ValueError(
        f"Got an array of shape {tuple(image.shape)}; expected 1 to 4 channels in the first or the last "
        "dimension. A batch of grey images needs one for the channel: (batch, 1, height, width)."
    )


def _to_grey_levels(image: torch.Tensor) -> torch.Tensor:
    """Any integer dtype -> uint8 grey levels; floats -> float32 with unchanged values."""
    if image.dtype == torch.uint8:
        return image
    if image.is_floating_point():
        if not image.isfinite().all():
            raise ValueError("Got an image with values that are NaN or infinite; expected finite grey levels.")
        return image.float()
    if image.dtype == torch.bool:
        return image.to(torch.uint8) * 255
    values = image.to(torch.int64)
    if image.dtype == torch.uint16:
        if 0 < values.max() <= 255:
            raise ValueError(
                f"Got a 16-bit image whose highest value is {int(values.max())}; expected 0 to 65535, of which that "
                "is black. If its values are 0 to 255, save it with 8 bits."
            )
        return ((values + 128) // 257).to(torch.uint8)  # 65535 / 255 = 257; 128 rounds
    low, high = (bound.item() for bound in values.aminmax())
    if low < 0 or high > 255:
        raise ValueError(
            f"Got an image of {image.dtype} with values from {low} to {high}; expected 0 to 255. "
            "Convert a 16-bit image to uint16."
        )
    return values.to(torch.uint8)


def _floats_to_grey_levels(image: torch.Tensor) -> torch.Tensor:
    """An image of floats on the scale 0 to 255; one within [0, 1] is scaled to it."""
    low, high = (bound.item() for bound in image.aminmax())
    if low < -MAX_OVERSHOOT or high > 255 + MAX_OVERSHOOT:
        raise ValueError(
            f"Got an image of floats from {low:g} to {high:g}; expected grey levels 0 to 255, or 0 to 1. Scale the "
            "image to that range."
        )
    if low < 0 or high > 1 or high == 0:
        return image
    logger.warning_once("Got an image of floats within [0, 1]: they are read as 0 for black and 1 for white.")
    return image * 255


def _to_rgb(image: torch.Tensor) -> torch.Tensor:
    """(C, H, W) -> (3, H, W); grey is repeated, alpha dropped (as by PIL's `convert`)."""
    channels = image.shape[0]
    if channels not in CHANNEL_COUNTS:
        raise ValueError(
            f"Got an image with {channels} channels; expected 1 (grey), 2 (grey and alpha), 3 (RGB) or "
            "4 (RGBA). Check input_data_format."
        )
    return image[:3] if channels >= 3 else image[:1].expand(3, -1, -1)


def _boxes_of(images: list[torch.Tensor], setting: Any) -> list[Box | None]:
    """The field of view of each image (C, H, W) by the setting `field_of_view`; an error names the image."""
    if read_field_of_view(setting) is None:
        return [None] * len(images)
    boxes = []
    for index, image in enumerate(images):
        pixels = image.expand(3, -1, -1) if image.shape[0] < 3 else image
        if pixels.is_floating_point() and 0 < pixels.max() <= 1:
            pixels = pixels * 255
        try:
            boxes.append(choose_box(setting, pixels.permute(1, 2, 0).cpu().numpy()))
        except ValueError as error:
            raise ValueError(f"Image {index}: {error}" if len(images) > 1 else str(error)) from error
    return boxes


def _cropped(image: torch.Tensor, box: Box | None) -> torch.Tensor:
    """What an image (C, H, W) shows in a rectangle."""
    return image if box is None else image[:, box[1] : box[3], box[0] : box[2]]


def _in_whole_frame(values: torch.Tensor, box: Box, size: Sequence[int]) -> torch.Tensor:
    """A map of a rectangle as one of the frame of the size (height, width), 0 outside."""
    whole = values.new_zeros(tuple(size))
    whole[box[1] : box[3], box[0] : box[2]] = values
    return whole


def _warn_if_already_rescaled(images: list[torch.Tensor]) -> None:
    """Warn if an image looks rescaled already; only floats can be, and black is black on either scale."""
    if any(image.is_floating_point() and image.min() >= 0 and 0 < image.max() <= 1 for image in images):
        logger.warning_once(
            "Got a float image with values within [0, 1], which do_rescale=True will scale down once more. "
            "Pass do_rescale=False if the image is scaled already."
        )


def _map_to_tensor(
    segmentation_map: Any,
    index: int,
    foreground_values: Sequence[int] | None,
    mask_threshold: float | None,
    device: str | torch.device | None,
) -> torch.Tensor:
    """A mask -> (1, H, W) uint8 of {0, 1}; an error names the mask by its index."""
    try:
        mask = binarize_mask(segmentation_map, foreground_values, mask_threshold)
    except ValueError as error:
        raise ValueError(f"Segmentation map {index}: {error}") from error
    return torch.from_numpy(mask)[None].to(device)


def orientation_of(image: Image.Image) -> int:
    """How its EXIF tag says that an image is to be turned: 1, not at all, to 8; from 5 on, by a quarter turn."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def may_misalign(image_tag: int, image_size: Sequence[int], mask_tag: int, mask_size: Sequence[int]) -> bool:
    """
    Whether nobody can tell if image and mask fit once both are turned as their EXIF tags say.

    That is so if the tags differ although both are stored in one size: then the mask may have been drawn on the image
    as stored. If the stored sizes differ, the mask was drawn on the image as shown, or is none of it.

    Args:
        image_tag, mask_tag: as `orientation_of` gives them.
        image_size, mask_size: the two sides of each, turned.
    """

    def stored(tag: int, size: Sequence[int]) -> tuple[int, ...]:
        return tuple(size[::-1] if tag >= 5 else size)

    return image_tag != mask_tag and stored(image_tag, image_size) == stored(mask_tag, mask_size)


def _tag_of(image: Any) -> int | None:
    """`orientation_of` a PIL image; None for arrays."""
    return orientation_of(image) if isinstance(image, Image.Image) else None


def _check_tags(
    images: list[torch.Tensor], tags: list[int | None], masks: list[torch.Tensor], mask_tags: list[int | None]
) -> None:
    """Refuse pairs of PIL images of which `may_misalign` holds."""
    for index, (tag, mask_tag) in enumerate(zip(tags, mask_tags, strict=True)):
        if tag is None or mask_tag is None:
            continue
        if may_misalign(tag, images[index].shape[-2:], mask_tag, masks[index].shape[-2:]):
            raise ValueError(
                f"Image {index} has the EXIF orientation {tag} and its segmentation map {mask_tag}, and both are "
                "stored in one size: it is not known whether they fit once they are turned so. Turn them as they "
                "belong, for example by PIL.ImageOps.exif_transpose, or pass arrays, which have no tag."
            )


def _check_sizes(images: list[torch.Tensor], masks: list[torch.Tensor]) -> None:
    """Refuse a mask whose height or width differs from its image's."""
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        if image.shape[-2:] != mask.shape[-2:]:
            raise ValueError(
                f"Image {index} has size {tuple(image.shape[-2:])} (height, width) and its segmentation map "
                f"{tuple(mask.shape[-2:])}; expected one size (EXIF applied). Check that they are a pair."
            )


def _stack(images: list[torch.Tensor]) -> torch.Tensor:
    """B tensors of one shape -> one batch with B in front."""
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise ValueError(
            f"Cannot stack images of the shapes {', '.join(map(str, shapes))} into one batch. "
            "Leave do_resize=True, or take lists with return_tensors=None."
        )
    return torch.stack(images)


def _target_sizes(
    target_sizes: Iterable[Sequence[int]] | torch.Tensor | None, logits: torch.Tensor
) -> list[tuple[int, ...]]:
    """(height, width) for each of the batch's logits (B, 1, h, w)."""
    if target_sizes is None:
        return [tuple(logits.shape[-2:])] * len(logits)
    sizes = [tuple(int(length) for length in size) for size in target_sizes]
    if len(sizes) != len(logits):
        raise ValueError(f"Got {len(sizes)} target sizes; expected {len(logits)}, one for each image.")
    return sizes


UNetImageProcessor.register_for_auto_class("AutoImageProcessor")
