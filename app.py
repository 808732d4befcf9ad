"""A web page on which images and short videos are segmented: upload, and see the polyps.

    python app.py                                            # the model of this clone, on http://127.0.0.1:7860
    python app.py --model me/unet-kvasir-seg --port 8000
    python app.py --host 0.0.0.0                             # for others on the network too: there is no password
    python app.py --push_to_space me/polyps                  # as a Hugging Face Space, the weights of --model included

It needs `pip install -e ".[app]"` and no network. Images and videos stay on this machine: what is uploaded is deleted
after a few minutes and when the program ends.
"""

import base64
import csv
import io
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import transformers
from PIL import Image
from unet_kvasir_seg.common.command_line import FlagParser
from unet_kvasir_seg.common.errors import UserError, first_line, require_extra, user_errors
from unet_kvasir_seg.common.files import image_from_bytes
from unet_kvasir_seg.common.paths import TRAINED_MODEL
from unet_kvasir_seg.data.synthetic import generate
from unet_kvasir_seg.inference.checkpoint import fingerprint
from unet_kvasir_seg.inference.lesions import COLUMNS, lesion_numbers, lesion_row
from unet_kvasir_seg.inference.overlay import HALO_COLOUR, PREDICTION_COLOUR, draw_overlay, to_rgb
from unet_kvasir_seg.inference.predictor import Prediction, Predictor
from unet_kvasir_seg.reporting.results import known_results

if TYPE_CHECKING:
    import gradio as gr


# Bounds of what a visitor may ask for.
MAX_FILE_MEBIBYTES = 100  # a 16-bit TIFF of MAX_PIXELS, or MAX_VIDEO_SECONDS at 25 Mbit/s
MAX_PIXELS = 2**24  # of an image or a frame: two 4K frames; a phone's photograph has 12 million
MAX_VIDEO_SECONDS = 30  # a few minutes of work for two cores
MAX_VIDEO_FRAMES = 60 * MAX_VIDEO_SECONDS  # for files that do not tell how long they are
THREADS = 4  # one for images, one for videos, two for drawing; each may keep memory of its own
SESSIONS = 40  # whose last answers gradio remembers, some 0.5 MB each; it makes a new one where it forgot
MAX_WAITING = 100  # visitors in each queue; the next is asked to come back
RESULTS_BYTES = 2**28  # of the results that are held for redrawing: 24 visitors' frames of 1920x1080
FILE_SECONDS = 600  # after which an upload and a video are deleted
CLEANING_SECONDS = 60  # from one look for such files to the next

PREVIEW_SIDE = 1280  # longest side in pixels of the pictures in the page, so that they are redrawn at once
TABLE_ROWS = 12  # in the page: the largest regions; the CSV has all
EXAMPLES = 3
EXAMPLE_SIZE = (512, 640)  # height and width
CLIP_SIZE = (288, 384)
CLIP_FRAMES, CLIP_RATE = 50, 25

OVERLAY, SIDE_BY_SIDE = "Overlay", "Side by side"
NOTICE = "Research use only. Not a medical device; not for diagnosis or treatment."
EMPTY = (
    '<p class="hint">No image is held here. Upload or paste one, take one with the camera, or choose an example.</p>'
)
NO_VIDEO = '<p class="hint">No video yet. Choose one, or the example, and press the button.</p>'
ACCENT, INK = ("#{:02x}{:02x}{:02x}".format(*colour) for colour in (PREDICTION_COLOUR, HALO_COLOUR))
CSS = f"""
.gradio-container {{ --accent: {ACCENT}; }}
.gradio-container :focus-visible {{ outline: 3px solid var(--accent); outline-offset: 2px; }}
.gradio-container button[role="tab"].selected {{ color: var(--body-text-color); }}
.gradio-container .html-container {{ padding: 0; }}
.notice {{ border-left: 4px solid var(--accent); padding-left: 0.75rem; font-weight: 600; }}
.problem {{ border-left: 4px solid var(--error-border-color); padding-left: 0.75rem; }}
.hint, .pictures figcaption, .lesions caption {{ opacity: 0.75; }}
.pictures {{ display: grid; gap: 0.75rem; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); }}
.pictures figure {{ margin: 0; }}
.pictures img {{ width: 100%; max-height: 70vh; object-fit: contain; border-radius: var(--radius-md); }}
.pictures figcaption {{ padding-top: 0.25rem; overflow-wrap: anywhere; }}
.downloads {{ display: flex; flex-wrap: wrap; gap: 0.75rem; margin: 1rem 0; }}
.downloads a {{ border: 1px solid var(--body-text-color-subdued); border-radius: var(--radius-md);
    color: var(--body-text-color); padding: 0.4rem 0.9rem; text-decoration: none; }}
.downloads a:hover {{ border-color: var(--accent); }}
.lesions {{ border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }}
.lesions caption {{ text-align: left; padding-bottom: 0.25rem; }}
.lesions, .lesions * {{ border: 0 !important; }}
.lesions :is(th, td) {{ border-bottom: 1px solid var(--border-color-primary) !important;
    padding: 0.3rem 0.4rem; text-align: right; }}
"""

# gradio gives the pictures of the examples no names for screen readers, and may draw them anew.
NAME_EXAMPLES = """() => {
    const name = () => document.querySelectorAll("#examples button").forEach(
        (button, index) => button.setAttribute("aria-label", `Synthetic example ${index + 1}`));
    new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
    name();
}"""


@dataclass
class AppArguments:
    """What to show, and where."""

    model: str | None = field(
        default=None, metadata={"help": "A folder or an id on the Hub; by default the model of this clone."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of --model on the Hub."})
    port: int = field(default=7860, metadata={"help": "Port of the page."})
    host: str = field(
        default="127.0.0.1", metadata={"help": "Address to listen on: 127.0.0.1 is this machine alone, 0.0.0.0 all."}
    )
    device: str = field(default="auto", metadata={"help": "auto, cuda, mps or cpu."})
    dtype: str = field(default="auto", metadata={"help": "auto, float32, bfloat16 or float16."})
    push_to_space: str | None = field(
        default=None,
        metadata={
            "help": "Upload the page as this Space on the Hub, and do not show it here. It carries the weights of a "
            "--model that is a folder, and loads one that is on the Hub from there."
        },
    )


# The answers to an image. A visitor's last one is held, so that sliders redraw it without another inference.


@dataclass(frozen=True)
class Result:
    """What there is to draw of an image.

    Attributes:
        name: Of the image's file.
        picture: RGB, at most `PREVIEW_SIDE` pixels a side.
        prediction: At the image's own size.
        seconds: That the inference took.
    """

    name: str
    picture: Image.Image
    prediction: Prediction
    seconds: float

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        width, height = self.picture.size
        return self.prediction.probability.nbytes + 3 * width * height

    @cached_property
    def picture_url(self) -> str:
        """The picture itself."""
        return jpeg_url(self.picture)


class Results:
    """The last result of each visitor; those that were not looked at for longest go if all take too much memory.

    A `gradio.State` would be kept for an hour after the visitor left, and bounded in number only.
    """

    def __init__(self, most_bytes: int = RESULTS_BYTES):
        self.most_bytes = most_bytes
        self._held: OrderedDict[str, Result] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, visitor: str, result: Result) -> None:
        """Hold a visitor's result in place of the one before."""
        with self._lock:
            self._held.pop(visitor, None)
            self._held[visitor] = result
            while len(self._held) > 1 and sum(held.bytes for held in self._held.values()) > self.most_bytes:
                self._held.popitem(last=False)

    def of(self, visitor: str) -> Result | None:
        """A visitor's result, if there is one."""
        with self._lock:
            if visitor in self._held:
                self._held.move_to_end(visitor)
            return self._held.get(visitor)

    def forget(self, visitor: str) -> None:
        with self._lock:
            self._held.pop(visitor, None)


def uploaded(upload: dict[str, Any], folder: Path) -> Path:
    """The file of an upload, given what the page says of it.

    Raises:
        UserError: If it says another file than one of the folder of the uploads.
    """
    path = Path(upload["path"]).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UserError("That file was not uploaded here.")
    return path


def segment_image(path: Path, predictor: Predictor) -> Result:
    """Read an uploaded image and segment it.

    Raises:
        UserError: If it is no image, damaged or too large, or the network gives no number.
    """
    name = path.name
    try:
        image = image_from_bytes(path.read_bytes(), MAX_PIXELS)
        started = time.perf_counter()
        prediction = predictor(image)
        seconds = time.perf_counter() - started
    except OSError as error:
        raise UserError(f"{name} is no longer there. Upload it again.") from error
    except ValueError as error:
        raise UserError(f"{name} {first_line(error)}.") from error
    if not prediction.is_valid:
        raise UserError(f"The model gives NaN for {name}: start the program with --dtype float32.")
    picture = to_rgb(image)
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), reducing_gap=2)
    return Result(name, picture, prediction, seconds)


def draw_result(result: Result, threshold: float, opacity: float, view: str) -> str:
    """The HTML of a result: what was found, pictures, downloads and table."""
    prediction = replace(result.prediction, threshold=threshold)
    mask = prediction.mask
    height, width = mask.shape
    # Small, so that a slider's move shows at once; what is downloaded has the image's own size.
    small = Image.fromarray(mask).resize(result.picture.size, Image.Resampling.NEAREST)
    overlay = draw_overlay(result.picture, np.asarray(small), opacity=opacity)
    count = len(prediction.lesions)
    found = f"{count} region{'s' * (count != 1)}" if count else "No polyp found"
    area = f", {100 * mask.mean():.2f} % of the image" if count else ""
    name, stem = escape(result.name), escape(Path(result.name).stem)
    pictures = [(result.picture_url, f"{name}, {width}x{height} pixels", f"The image {name}")] * (view == SIDE_BY_SIDE)
    pictures.append(
        (
            jpeg_url(overlay),
            f"{name}: polyps outlined where the probability is above {threshold:.2f}",
            f"{name} with {found.lower()} outlined",
        )
    )
    figures = "".join(
        f'<figure><img src="{url}" alt="{alternative}"><figcaption>{caption}</figcaption></figure>'
        for url, caption, alternative in pictures
    )
    mask_url = data_url("image/png", encode_mask(mask))
    table_url = data_url("text/csv", write_lesions(result.name, prediction))
    return (
        f'<p role="status"><strong>{found}</strong>{area}. Inference: {result.seconds:.2f} s.</p>'
        f'<div class="pictures">{figures}</div>'
        f'<p class="downloads"><a href="{mask_url}" download="{stem}-mask.png">Download mask (PNG)</a>'
        f'<a href="{table_url}" download="{stem}-lesions.csv">Download lesion table (CSV)</a></p>'
        f"{table_html(prediction)}"
    )


def table_html(prediction: Prediction) -> str:
    """The largest regions of the mask as a table; nothing where there is none."""
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


def write_lesions(name: str, prediction: Prediction) -> bytes:
    """The CSV file of an image's lesions, as predict.py writes it."""
    table = io.StringIO(newline="")
    rows = csv.writer(table)
    rows.writerow(COLUMNS)
    for number, lesion in enumerate(prediction.lesions, start=1):
        rows.writerow(lesion_row(name, number, lesion_numbers(lesion)))
    return table.getvalue().encode()


def encode_mask(mask: np.ndarray) -> bytes:
    """A PNG of a mask (H, W) bool, as predict.py writes it: 255 is polyp, 0 is not."""
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85, subsampling=0)  # 4:4:4, or thin contours lose their colour
    return data_url("image/jpeg", buffer.getvalue())


def data_url(kind: str, content: bytes) -> str:
    """The content as an address, so that no file of a result is ever written."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def problem_html(message: str) -> str:
    return f'<p class="problem" role="alert">{escape(message)}</p>'


# The answers to a video.


@dataclass(frozen=True)
class Clip:
    """A video with the polyps drawn in, and what to say of it."""

    overlay: Path
    html: str


def segment_clip(
    path: str, predictor: Predictor, folder: Path, threshold: float, smoothing: float, tell: Callable[[float], Any]
) -> Clip:
    """Segment an uploaded video.

    Args:
        folder: Where to write the overlay.
        threshold, smoothing: As for `video.segment_video`.
        tell: Called with the share that is done, as far as it is known.

    Raises:
        UserError: If it is no video, damaged from the start, too large or too long, or the network gives no number.
    """
    from unet_kvasir_seg.inference.video import VideoError, segment_video

    name = Path(path).name
    overlay, table = folder / f"{Path(name).stem}-overlay.mp4", folder / "frames.csv"
    done = 0

    def on_frame() -> None:
        nonlocal done
        done += 1
        if done > MAX_VIDEO_FRAMES:
            raise VideoError(f"is too long: at most {MAX_VIDEO_FRAMES} frames are segmented here. Use predict.py")
        tell(min(done / frames, 1.0))

    try:
        frames = check_video(path)
        report = segment_video(
            path, overlay, table, predictor, threshold=threshold, smoothing=smoothing, on_frame=on_frame
        )
    except VideoError as error:
        raise UserError(f"{name} {first_line(error)}.") from error
    url = data_url("text/csv", table.read_bytes())
    problem = problem_html(f"Not all of it could be read: {report.problem}.") if report.problem else ""
    return Clip(
        overlay,
        f'{problem}<p role="status"><strong>{escape(name)}</strong>: {escape(str(report))}.</p>'
        f'<p class="downloads"><a href="{url}" download="{escape(Path(name).stem)}-frames.csv">'
        "Download table of frames (CSV)</a></p>",
    )


def check_video(path: str) -> int:
    """How many frames a video has, or may have if it does not tell.

    Raises:
        VideoError: If it has none, or too many, or too large ones.
    """
    from unet_kvasir_seg.inference.video import VideoError, VideoReader

    with VideoReader(path) as video:
        if video.width * video.height > MAX_PIXELS:
            raise VideoError(f"is too large ({video.width}x{video.height} pixels). Scale it down")
        duration = video.container.duration  # in microseconds
        frames = video.frames_told or (round(duration / 1e6 * video.rate) if duration else MAX_VIDEO_FRAMES)
        seconds = duration / 1e6 if duration else float(frames / video.rate)
        if seconds > MAX_VIDEO_SECONDS + 0.5 and (duration or video.frames_told):
            raise VideoError(
                f"is too long ({seconds:.0f} seconds): at most {MAX_VIDEO_SECONDS} are segmented here. Cut it, or use "
                "predict.py"
            )
    return max(frames, 1)


# The page.


def write_examples(folder: Path) -> tuple[list[Path], Path]:
    """Write synthetic frames and a clip that moves across one: nothing private is needed to try the page."""
    import av

    frames = []
    for number, row in enumerate(generate(EXAMPLES, EXAMPLE_SIZE, seed=0), start=1):
        frames.append(folder / f"synthetic-{number}.jpg")
        row["image"].save(frames[-1], quality=92)
    clip = folder / "synthetic.mp4"
    height, width = CLIP_SIZE
    with Image.open(frames[0]) as image, av.open(str(clip), "w") as container:
        stream = container.add_stream("mpeg4", rate=CLIP_RATE, bit_rate=2_000_000)
        stream.width, stream.height = width, height
        for number in range(CLIP_FRAMES):
            left, top = (
                round(number / (CLIP_FRAMES - 1) * room) for room in (image.width - width, image.height - height)
            )
            picture = image.crop((left, top, left + width, top + height))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return frames, clip


def describe(predictor: Predictor, name: str, results: dict[str, Any] | None) -> str:
    """The HTML of the page's head: the model, how good it is, and what it is not for."""
    parameters = predictor.model.num_parameters() / 1e6
    score = (results or {}).get("metrics", {}).get("dice_per_image_native")
    if results is None or score is None:
        scores = "Its scores are not measured."
    else:
        low, high = score["ci95"]
        data = results["data"]
        scores = (
            f"Dice <strong>{score['value']:.3f}</strong> (95 % interval {low:.3f} to {high:.3f}): mean per image, at "
            f"each image's own size, on the {data['rows'][data['split']]} images of the {escape(data['split'])} split "
            f"of {escape(data['name'])}."
        )
    return (
        "<h1>Polyp segmentation</h1>"
        f'<p class="notice">{NOTICE}</p>'
        f"<p><strong>{escape(name)}</strong>, a U-Net of {parameters:.1f} million parameters. {scores}</p>"
    )


def find_results(model: str, revision: str | None, predictor: Predictor) -> dict[str, Any] | None:
    """The results.json beside a model's weights, if there is one and it is of these weights."""
    try:
        results = known_results(model, revision)
        if results and results["model"].get("fingerprint", "") not in ("", fingerprint(predictor.model)):
            raise UserError(f"The results.json of {model} is of other weights. Measure these with evaluation.py.")
    except UserError as error:
        print(f"app.py: the page shows no scores: {first_line(error)}.", file=sys.stderr)
        return None
    return results or None


def build_page(predictor: Predictor, name: str, results: dict[str, Any] | None, folder: Path) -> "gr.Blocks":
    """The page.

    Args:
        predictor: Segments the images and videos.
        name: Of the model.
        results: Its results.json, if it has one.
        folder: For the examples and the videos; the caller deletes it.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # or gradio calls its makers when it is imported
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    import gradio as gr

    held = Results()
    frames, clip = write_examples(folder)

    def on_image(upload: dict[str, Any] | None, threshold: float, opacity: float, view: str, request: gr.Request):
        """Segment an image; returns the input, emptied if it cannot be used, and the result."""
        visitor = request.session_hash or ""
        if upload is None:
            return gr.skip(), EMPTY
        try:
            result = segment_image(uploaded(upload, folder), predictor)
        except UserError as error:
            before = held.of(visitor)
            kept = draw_result(before, threshold, opacity, view) if before else ""
            return None, problem_html(str(error)) + kept
        held.keep(visitor, result)
        return gr.skip(), draw_result(result, threshold, opacity, view)

    def on_setting(threshold: float, opacity: float, view: str, request: gr.Request) -> str:
        """Draw the result that is held."""
        result = held.of(request.session_hash or "")
        return EMPTY if result is None else draw_result(result, threshold, opacity, view)

    def on_leave(request: gr.Request) -> None:
        held.forget(request.session_hash or "")

    def on_clear(request: gr.Request) -> str:
        on_leave(request)
        return EMPTY

    def on_video(path: str | None, threshold: float, smoothing: float, progress=gr.Progress()):  # noqa: B008 - gradio's way
        """Segment a video; returns the overlay and what to say of it."""
        if path is None:
            return None, NO_VIDEO
        # gradio copies the video into a folder of its own, which it cleans.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            try:
                made = segment_clip(path, predictor, Path(scratch), threshold, smoothing, progress)
            except UserError as error:
                return None, problem_html(str(error))
            kept = Path(tempfile.mkdtemp(dir=folder)) / made.overlay.name
            shutil.move(made.overlay, kept)
        return str(kept), made.html

    with gr.Blocks(
        title="Polyp segmentation", analytics_enabled=False, delete_cache=(CLEANING_SECONDS, FILE_SECONDS)
    ) as page:
        gr.HTML(describe(predictor, name, results))
        with gr.Tab("Image"), gr.Row():
            with gr.Column(scale=2, min_width=280):
                image = gr.Image(
                    label="Image",
                    sources=["upload", "clipboard", "webcam"],
                    height=300,
                    buttons=[],
                    webcam_options=gr.WebcamOptions(mirror=False),
                    elem_id="image",
                )
                examples = gr.Examples(
                    [[str(frame)] for frame in frames], [image], label="Examples (synthetic)", elem_id="examples"
                )
                threshold = gr.Slider(0, 1, 0.5, step=0.01, label="Threshold", buttons=[], elem_id="threshold")
                opacity = gr.Slider(0, 1, 0.35, step=0.05, label="Overlay opacity", buttons=[], elem_id="opacity")
                view = gr.Radio([OVERLAY, SIDE_BY_SIDE], value=OVERLAY, label="View", elem_id="view")
            with gr.Column(scale=3, min_width=280):
                shown = gr.HTML(EMPTY, elem_id="result")
        with gr.Tab("Video"), gr.Row():
            with gr.Column(scale=2, min_width=280):
                video = gr.File(label="Video", file_types=["video"], height=150, elem_id="video")
                gr.Examples([[str(clip)]], [video], label="Example (synthetic)")
                video.keep_in_cache.add(str(clip))  # or it would be deleted as an upload is; pictures are kept unasked
                video_threshold = gr.Slider(0, 1, 0.5, step=0.01, label="Threshold", buttons=[])
                smoothing = gr.Slider(0, 0.9, 0.6, step=0.1, label="Smoothing over time", buttons=[])
                start = gr.Button("Segment video", variant="primary")
            with gr.Column(scale=3, min_width=280):
                told = gr.HTML(NO_VIDEO, elem_id="told")
                player = gr.Video(label="Polyps drawn in", interactive=False, elem_id="player")
        gr.HTML(
            f'<p class="hint">At most {MAX_FILE_MEBIBYTES} MiB a file, {MAX_PIXELS / 1e6:.1f} million pixels and '
            f"{MAX_VIDEO_SECONDS} seconds of video. What you upload is deleted {FILE_SECONDS // 60} minutes later.</p>"
        )

        settings: list[Any] = [threshold, opacity, view]
        # One image at a time has all cores; drawing and videos have queues of their own, so that none waits for these.
        run: dict[str, Any] = {
            "fn": on_image,
            "inputs": [image, *settings],
            "outputs": [image, shown],
            "preprocess": False,  # gradio's own would open the file, before any bound
            "concurrency_id": "images",
            "concurrency_limit": 1,
            "show_progress_on": shown,
            "scroll_to_output": True,  # on a phone it is far below
        }
        # Not `input`, which comes with the image that was there when that is removed.
        image.upload(**run, api_name="segment")
        image.clear(on_clear, None, shown, concurrency_id="drawing", show_progress="hidden", api_visibility="private")
        examples.load_input_event.then(**run, api_visibility="private")
        gr.on(
            [threshold.input, opacity.input, view.input],
            on_setting,
            settings,
            shown,
            concurrency_id="drawing",
            concurrency_limit=2,
            show_progress="hidden",
            trigger_mode="always_last",
            api_name="redraw",
        )
        start.click(
            on_video,
            [video, video_threshold, smoothing],
            [player, told],
            concurrency_id="videos",
            concurrency_limit=1,
            show_progress_on=told,
            api_name="segment_video",
        )
        page.unload(on_leave)
    return page.queue(max_size=MAX_WAITING)


def launch(page: "gr.Blocks", host: str, port: int) -> str:
    """Serve the page in threads; returns its address.

    Raises:
        UserError: If the address cannot be used.
    """
    import gradio as gr

    fonts = ["system-ui", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue="cyan", secondary_hue="cyan", font=fonts, font_mono=["ui-monospace", "monospace"]
    )
    accented = (
        *("button_primary_background_fill", "button_primary_background_fill_hover", "slider_color"),
        *("checkbox_background_color_selected", "checkbox_border_color_selected"),
    )
    for mode in ("", "_dark"):
        theme.set(**{f"{name}{mode}": ACCENT for name in accented})
        theme.set(**{f"button_primary_text_color{mode}": INK})
    theme.set(color_accent=ACCENT)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            ssr_mode=False,
            prevent_thread_lock=True,
            quiet=True,
            max_threads=THREADS,
            state_session_capacity=SESSIONS,
            max_file_size=MAX_FILE_MEBIBYTES * 2**20,
            run_history=False,
            footer_links=["settings"],
            theme=theme,
            css=CSS,
            js=NAME_EXAMPLES,
        )
    except OSError as error:
        raise UserError(
            f"The page cannot be served on port {port} of {host}: it is in use, or no address of this machine. "
            "Choose another --port or --host."
        ) from error
    return address


def serve(predictor: Predictor, name: str, results: dict[str, Any] | None, arguments: AppArguments) -> None:
    """Serve the page until the program is interrupted."""
    # A service is ended by SIGTERM, and is to clean up as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="unet-app-", ignore_cleanup_errors=True) as folder:
        page = build_page(predictor, name, results, Path(folder))
        try:
            address = launch(page, arguments.host, arguments.port)
            print(f"{name} ({predictor.runtime}) is on {address} until Ctrl-C.", flush=True)
            with suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
        finally:
            page.close(verbose=False)


def main(argv: list[str] | None = None) -> None:
    transformers.utils.logging.disable_progress_bar()  # of loading weights, which takes no time
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # what it warns of is refused
    with user_errors("app.py"):
        parser = FlagParser([AppArguments], program="app.py", description=__doc__)
        (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
        require_extra("app", "gradio", "av")
        model = arguments.model or str(TRAINED_MODEL)
        predictor = Predictor.from_pretrained(
            model, revision=arguments.model_revision, device=arguments.device, dtype=arguments.dtype
        )
        results = find_results(model, arguments.model_revision, predictor)
        name = results["model"]["name"] if results else Path(model).name
        if arguments.push_to_space:
            from unet_kvasir_seg.demo.space import push_space  # not in a Space itself

            print(f"Pushed: {push_space(arguments.push_to_space, model, arguments.model_revision, name)}")
        else:
            serve(predictor, name, results, arguments)


if __name__ == "__main__":
    main()
