"""The HTML that the page shows: the description of the model, the result of an image or of a video, and problems.

Pictures and downloads are data URLs, so that no file of a result is written to disk.
"""

import base64
import io
import math
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from ..common.csv_tables import write_row
from ..common.notice import NOTICE
from ..inference.lesions import COLUMNS, lesion_numbers, lesion_row
from ..inference.overlay import HALO_COLOUR, NUMBERED, PREDICTION_COLOUR, Box, draw_numbers, draw_overlay
from ..inference.prediction import Prediction
from ..inference.video import VideoReport
from ..reporting.known_data import shown_name
from ..reporting.markdown import percent
from ..reporting.presence import negatives_text
from ..reporting.results import Evaluation, Results

TABLE_ROWS = NUMBERED  # rows of the table in the page: the largest regions; the CSV has all
OVERLAY, SIDE_BY_SIDE = "Overlay", "Side by side"
NO_IMAGE = (
    '<p class="hint">No image is held here. Upload or paste one, take one with the camera, or choose an example.</p>'
)
NO_VIDEO = '<p class="hint">No video yet. Choose one, or the example, and press the button.</p>'
ACCENT, INK = ("#{:02x}{:02x}{:02x}".format(*colour) for colour in (PREDICTION_COLOUR, HALO_COLOUR))


@dataclass(frozen=True)
class SegmentedImage:
    """An image and its prediction, kept so that it can be redrawn without another inference.

    Attributes:
        name: Name of the image's file.
        picture: RGB; a preview, smaller than the image if that is large.
        prediction: At the image's original size.
        seconds: Duration of the inference.
    """

    name: str
    picture: Image.Image
    prediction: Prediction
    seconds: float

    @property
    def bytes(self) -> int:
        """Size in memory."""
        width, height = self.picture.size
        return self.prediction.probability.nbytes + 3 * width * height

    @cached_property
    def picture_url(self) -> str:
        """Data URL of the picture without an overlay."""
        return jpeg_url(self.picture)


@dataclass(frozen=True)
class SegmentedVideo:
    """A video that was segmented.

    Attributes:
        name: Name of the uploaded file.
        overlay: The video with the polyps drawn in.
        table: Content of the CSV file with a row for each frame.
        report: Number of frames, speed, and problems if there were any.
    """

    name: str
    overlay: Path
    table: bytes
    report: VideoReport


def stylesheet() -> str:
    """The page's CSS: style.css, with the colours of the overlay as variables."""
    variables = f".gradio-container {{ --accent: {ACCENT}; --ink: {INK}; }}\n"
    return variables + Path(__file__).with_name("style.css").read_text(encoding="utf-8")


def model_html(name: str, parameters: int, results: Results | None) -> str:
    """The page's head: title, notice, the model, its Dice and where it marks nothing without polyp.

    Args:
        name: Name of the model.
        parameters: Number of its weights.
        results: Its results.json; None if it has none.
    """
    return (
        "<h1>Polyp segmentation</h1>"
        f'<p class="notice">{NOTICE}</p>'
        f"<p><strong>{escape(name)}</strong>, a U-Net of {parameters / 1e6:.1f} million parameters. "
        f"{_scores_html(results)}</p>"
    )


def _scores_html(results: Results | None) -> str:
    score = results["metrics"].get("dice_per_image_native") if results else None
    if not results or not score:
        return "Its scores are not measured."
    low, high = score["ci95"]
    data = results["data"]
    rows = escape(str(data["rows"].get(data["split"], "unknown number of")))
    evaluation = results["evaluation"]
    size = f" ({escape(str(evaluation['native_size']))})" if evaluation else ""
    return (
        f"Dice <strong>{score['value']:.3f}</strong> (95 % interval {low:.3f} to {high:.3f}): mean per image, at "
        f"each image's original size{size}, on the {rows} images of the {escape(str(data['split']))} "
        f"split of {escape(str(shown_name(data)))}.{_alarms_html(evaluation)}"
    )


def _alarms_html(evaluation: Evaluation | None) -> str:
    """On how many images without polyp nothing is marked; empty if that was not measured."""
    if not evaluation or not evaluation.get("negatives"):
        return ""
    share = evaluation["operating_points"][-1]["alarm_share"]
    assert share is not None  # there are such images
    low, high = share["ci95"]
    return (
        f" Nothing is marked on <strong>{percent(1 - share['value'])}</strong> (95 % interval {percent(1 - high)} to "
        f"{percent(1 - low)}) of {escape(negatives_text(evaluation))}."
    )


def image_html(result: SegmentedImage, threshold: float, opacity: float, view: str) -> str:
    """The result of an image: what was found, pictures, downloads and table.

    Args:
        result: The image.
        threshold: A pixel belongs to the mask if its probability is higher. If it is above the image's peak threshold,
            every region counts, as each reaches that.
        opacity: Opacity of the overlay's tint, from 0 to 1.
        view: `OVERLAY`, or `SIDE_BY_SIDE` to show the image without an overlay too.
    """
    prediction = replace(result.prediction, threshold=threshold)
    mask = prediction.mask
    height, width = mask.shape
    count = len(prediction.lesions)
    found = f"{count} region{'s' * (count != 1)}" if count else "No polyp found"
    area = f", {100 * mask.mean():.2f} % of the image" if count else ""
    name, stem = escape(result.name), escape(Path(result.name).stem)

    # Drawn at the size of the preview, so that the page follows a slider at once. The downloaded mask has full size.
    small_mask = Image.fromarray(mask).resize(result.picture.size, Image.Resampling.NEAREST)
    overlay = draw_overlay(result.picture, np.asarray(small_mask), opacity=opacity)
    scale = result.picture.width / width
    draw_numbers(overlay, [scaled(lesion.box, scale) for lesion in prediction.lesions])
    figures = figure_html(
        jpeg_url(overlay),
        f"{name}: polyps outlined where the probability is above {threshold:.2f}{_peak_text(prediction)}",
        f"{name} with {found.lower()} outlined",
    )
    if view == SIDE_BY_SIDE:
        figures = figure_html(result.picture_url, f"{name}, {width}x{height} pixels", f"The image {name}") + figures
    mask_url = data_url("image/png", encode_mask(mask))
    table_url = data_url("text/csv", lesion_csv(result.name, prediction))
    return (
        f'<p role="status"><strong>{found}</strong>{area}. Presence: {prediction.presence:.3f}. '
        f"Inference: {result.seconds:.2f} s.</p>"
        f'<div class="pictures">{figures}</div>'
        f'<p class="downloads"><a href="{mask_url}" download="{stem}-mask.png">Download mask (PNG)</a>'
        f'<a href="{table_url}" download="{stem}-lesions.csv">Download lesion table (CSV)</a></p>'
        f"{lesion_table_html(prediction)}"
    )


def scaled(box: Box, scale: float) -> Box:
    """The box in a picture of another size that holds all of a box."""
    left, top, right, bottom = (scale * side for side in box)
    return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)


def _peak_text(prediction: Prediction) -> str:
    """What the caption says of the peak threshold; empty if it has no effect."""
    peak = prediction.peak_threshold
    return f" and somewhere in the region at least {peak:.3g}" if peak and peak > prediction.threshold else ""


def figure_html(url: str, caption: str, alternative: str) -> str:
    """A picture with its caption. The texts are HTML already; `alternative` is for those who do not see it."""
    return f'<figure><img src="{url}" alt="{alternative}"><figcaption>{caption}</figcaption></figure>'


def lesion_table_html(prediction: Prediction) -> str:
    """A table of the largest lesions; empty if there is none."""
    lesions = prediction.lesions
    if not lesions:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{number}</th><td>{lesion.pixels}</td><td>{100 * lesion.share:.2f}</td>'
        f"<td>{lesion.probability:.3f}</td></tr>"
        for number, lesion in enumerate(lesions[:TABLE_ROWS], start=1)
    )
    more = f"; {len(lesions) - TABLE_ROWS} more in the CSV" if len(lesions) > TABLE_ROWS else ""
    titles = ("Region", "Pixels", "% of image", "Mean probability")
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    return (
        f'<table class="lesions"><caption>Regions, the largest first{more}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def video_html(video: SegmentedVideo) -> str:
    """The result of a video: what was read, how fast, and the download of its table."""
    name, stem = escape(video.name), escape(Path(video.name).stem)
    problem = problem_html(f"Not all of it could be read: {video.report.problem}.") if video.report.problem else ""
    return (
        f'{problem}<p role="status"><strong>{name}</strong>: {escape(str(video.report))}.</p>'
        f'<p class="downloads"><a href="{data_url("text/csv", video.table)}" download="{stem}-frames.csv">'
        "Download table of frames (CSV)</a></p>"
    )


def problem_html(message: str) -> str:
    """An error message, which screen readers announce."""
    return f'<p class="problem" role="alert">{escape(message)}</p>'


def lesion_csv(name: str, prediction: Prediction) -> bytes:
    """The CSV file of an image's lesions, as predict.py writes it."""
    table = io.StringIO(newline="")
    write_row(table, COLUMNS)
    for number, lesion in enumerate(prediction.lesions, start=1):
        write_row(table, lesion_row(name, number, lesion_numbers(lesion)))
    return table.getvalue().encode()


def encode_mask(mask: np.ndarray) -> bytes:
    """The PNG file of a mask (H, W) bool, as predict.py writes it: 255 for polyp, 0 for background."""
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg_url(picture: Image.Image) -> str:
    """Data URL of a picture, as a JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85, subsampling=0)  # with subsampling, thin contours lose their colour
    return data_url("image/jpeg", buffer.getvalue())


def data_url(media_type: str, content: bytes) -> str:
    """The content of a file as a URL."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
