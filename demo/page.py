"""The page of app.py, made with gradio: its layout, and what it does on each event.

page = build_page(predictor, name, parameters, results, example_images, folder)
with serving(page, folder, "127.0.0.1", 7860) as address:  # of server.py
    ...
"""

import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..common.errors import UserError
from ..inference.inputs import VIDEO_SUFFIXES
from ..inference.prediction import BasePredictor
from ..inference.video import VideoError
from ..reporting.results import Results
from .cleaner import FILE_SECONDS
from .decoder import MAX_PIXELS
from .examples import write_examples
from .jobs import MAX_WAITING
from .locked_folder import cannot_write_temporary
from .render import (
    ACCENT,
    INK,
    NO_IMAGE,
    NO_VIDEO,
    OVERLAY,
    SIDE_BY_SIDE,
    SegmentedImage,
    SegmentedVideo,
    image_html,
    model_html,
    problem_html,
    video_html,
)
from .uploads import (
    MAX_FILE_MEBIBYTES,
    MAX_VIDEO_SECONDS,
    cannot_be_kept,
    segment_clip,
    segment_image,
    uploaded_path,
)

if TYPE_CHECKING:
    import gradio as gr

HELD_BYTES = 2**28  # for the images that are held to be redrawn: 24 visitors' frames of 1920x1080

# gradio gives the pictures of the examples no names for screen readers, and draws them again at any time.
NAME_EXAMPLES = """() => {
    const name = () => document.querySelectorAll("#examples button").forEach(
        (button, index) => button.setAttribute("aria-label", `Synthetic example ${index + 1}`));
    new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
    name();
}"""

# On a phone, results are below what the window shows.
SHOW = """() => {{
    const result = document.getElementById("{result}");
    const {{ top }} = result.getBoundingClientRect();
    if (top < 0 || top > innerHeight / 2) result.scrollIntoView();
}}"""

FORGED = "These settings cannot be made with this page. Reload it."


class HeldImages:
    """The last segmented image of each visitor, so that sliders redraw it without another inference.

    If all images together take too much memory, those that were not used for the longest time are dropped. A
    `gradio.State` would stay for an hour after its visitor left, and only the number of them is bounded.
    """

    def __init__(self, max_bytes: int = HELD_BYTES):
        self.max_bytes = max_bytes
        self._held: OrderedDict[str, SegmentedImage] = OrderedDict()  # the longest unused first
        self._lock = threading.Lock()

    def keep(self, visitor: str, image: SegmentedImage) -> None:
        """Hold an image in place of the visitor's earlier one; nothing for "", which several visitors could share."""
        if not visitor:
            return
        with self._lock:
            self._held.pop(visitor, None)
            self._held[visitor] = image
            while len(self._held) > 1 and sum(held.bytes for held in self._held.values()) > self.max_bytes:
                self._held.popitem(last=False)

    def get(self, visitor: str) -> SegmentedImage | None:
        """The visitor's image; None if none is held."""
        with self._lock:
            if visitor in self._held:
                self._held.move_to_end(visitor)
            return self._held.get(visitor)

    def forget(self, visitor: str) -> None:
        with self._lock:
            self._held.pop(visitor, None)


def build_page(
    predictor: BasePredictor,
    name: str,
    parameters: int,
    results: Results | None,
    examples: Sequence[Image.Image],
    folder: Path,
) -> "gr.Blocks":
    """Build the page.

    Args:
        predictor: Segments the images and videos.
        name: Name of the model.
        parameters: Number of its weights.
        results: Its results.json, if it has one.
        examples: Images for visitors to try.
        folder: For uploads, examples and videos. The caller deletes it.

    Raises:
        UserError: If `folder` cannot be written to.
    """
    # The first two are read when gradio is imported; with analytics, that alone calls its makers' servers. The third
    # bounds its statistics of visitors, which nobody sees, to the last job.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
    import gradio as gr

    try:
        example_files, clip = write_examples(examples, folder)
    except OSError as error:
        raise cannot_write_temporary(error) from error
    with gr.Blocks(title="Polyp segmentation", analytics_enabled=False) as page:
        gr.HTML(model_html(name, parameters, results))
        with gr.Tab("Image"), gr.Row():
            _add_image_tab(page, predictor, example_files, folder)
        with gr.Tab("Video"), gr.Row():
            _add_video_tab(page, predictor, clip, folder)
        gr.HTML(
            f'<p class="hint">At most {MAX_FILE_MEBIBYTES} MiB a file, {MAX_PIXELS / 1e6:.1f} million pixels and '
            f"{MAX_VIDEO_SECONDS} seconds of video. Uploads are deleted within {FILE_SECONDS // 60} minutes.</p>"
        )
    # Clicks on examples too, which gradio would run without it, by a route that is closed here.
    for function in page.fns.values():
        function.queue = function.fn is not None
    return page.queue(max_size=MAX_WAITING, api_open=False)


def _add_image_tab(page: "gr.Blocks", predictor: BasePredictor, example_files: Sequence[Path], folder: Path) -> None:
    import gradio as gr

    on_image, on_setting, on_clear, on_leave = _image_events(predictor, folder)
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
            [[str(file)] for file in example_files], [image], label="Examples (synthetic)", elem_id="examples"
        )
        threshold = gr.Slider(0, 1, 0.5, step=0.01, label="Threshold", buttons=[], elem_id="threshold")
        opacity = gr.Slider(0, 1, 0.35, step=0.05, label="Overlay opacity", buttons=[], elem_id="opacity")
        view = gr.Radio([OVERLAY, SIDE_BY_SIDE], value=OVERLAY, label="View", elem_id="view")
    with gr.Column(scale=3, min_width=280):
        shown = gr.HTML(NO_IMAGE, elem_id="result")

    settings: list[Any] = [threshold, opacity, view]
    # Two images are decoded at a time, so that one which takes long need not be waited for; drawing and videos have
    # queues of their own and need not wait for them.
    segmentation: dict[str, Any] = {
        "fn": on_image,
        "inputs": [image, *settings],
        "outputs": [image, shown],
        "preprocess": False,  # gradio's own would decode the image before its size is checked
        "concurrency_id": "images",
        "concurrency_limit": 2,
        "show_progress_on": shown,
    }
    # Not the event `input`: when an image is removed, that comes with the removed image.
    uploaded = image.upload(**segmentation, api_name="segment")
    chosen = examples.load_input_event.then(**segmentation, api_visibility="private")
    for segmented in (uploaded, chosen):
        segmented.then(None, js=SHOW.format(result="result"), api_visibility="private")
    image.clear(on_clear, None, shown, concurrency_id="drawing", show_progress="hidden", api_visibility="private")
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
    page.unload(on_leave)


def _image_events(predictor: BasePredictor, folder: Path) -> tuple[Callable[..., Any], ...]:
    """What the image tab does when an image comes, a setting changes, the image is removed, and the visitor leaves."""
    import gradio as gr

    held = HeldImages()

    def on_image(upload: dict[str, Any] | None, threshold: float, opacity: float, view: str, request: gr.Request):
        """Segment an image. Returns the input, emptied if the image cannot be used, and the result."""
        visitor = request.session_hash or ""
        if upload is None:
            return gr.skip(), NO_IMAGE
        if not _are_shares(threshold, opacity) or view not in (OVERLAY, SIDE_BY_SIDE):
            return None, problem_html(FORGED)
        try:
            image = segment_image(uploaded_path(upload, folder), predictor)
        except UserError as error:
            earlier = held.get(visitor)
            still_shown = image_html(earlier, threshold, opacity, view) if earlier else ""
            return None, problem_html(str(error)) + still_shown
        held.keep(visitor, image)
        return gr.skip(), image_html(image, threshold, opacity, view)

    def on_setting(threshold: float, opacity: float, view: str, request: gr.Request) -> str:
        """Redraw the image that is held."""
        image = held.get(request.session_hash or "")
        return NO_IMAGE if image is None else image_html(image, threshold, opacity, view)

    def on_clear(request: gr.Request) -> str:
        on_leave(request)
        return NO_IMAGE

    def on_leave(request: gr.Request) -> None:
        held.forget(request.session_hash or "")

    return on_image, on_setting, on_clear, on_leave


def _add_video_tab(page: "gr.Blocks", predictor: BasePredictor, clip: Path, folder: Path) -> None:
    import gradio as gr

    def on_video(upload: dict[str, Any] | None, threshold: float, smoothing: float, progress=gr.Progress()):  # noqa: B008 - gradio's way
        """Segment a video. Returns the overlay and the text beside it."""
        if upload is None:
            return None, NO_VIDEO
        if not _are_shares(threshold, smoothing):
            return None, problem_html(FORGED)

        def on_progress(share: float) -> None:
            if not page.is_running:
                raise VideoError("is not done: the program ends")
            progress(share)

        try:
            kept, segmented = segment_and_keep(uploaded_path(upload, folder), threshold, smoothing, on_progress)
        except UserError as error:
            return None, problem_html(str(error))
        except OSError as error:
            return None, problem_html(str(cannot_be_kept("The result", error)))
        return str(kept), video_html(segmented)

    def segment_and_keep(
        path: Path, threshold: float, smoothing: float, on_progress: Callable[[float], Any]
    ) -> tuple[Path, SegmentedVideo]:
        """Segment a video; returns the path of the overlay too, which is deleted when it is old, as uploads are."""
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as scratch:
            segmented = segment_clip(path, predictor, Path(scratch), threshold, smoothing, on_progress)
            kept = Path(tempfile.mkdtemp(dir=folder)) / segmented.overlay.name
            return Path(shutil.move(segmented.overlay, kept)), segmented

    with gr.Column(scale=2, min_width=280):
        video = gr.File(label="Video", file_types=list(VIDEO_SUFFIXES), height=150, elem_id="video")
        gr.Examples([[str(clip)]], [video], label="Example (synthetic)")
        threshold = gr.Slider(0, 1, 0.5, step=0.01, label="Threshold", buttons=[])
        smoothing = gr.Slider(0, 0.9, 0, step=0.1, label="Smoothing over time", buttons=[])
        start = gr.Button("Segment video", variant="primary")
    with gr.Column(scale=3, min_width=280):
        text = gr.HTML(NO_VIDEO, elem_id="told")
        player = gr.Video(label="Polyps drawn in", interactive=False, elem_id="player")
    segmented = start.click(
        on_video,
        [video, threshold, smoothing],
        [player, text],
        preprocess=False,  # as for images; the file is checked when it is opened
        concurrency_id="videos",
        concurrency_limit=1,
        show_progress_on=text,
        api_name="segment_video",
    )
    for event in (start.click, segmented.then):  # where its progress is shown, and its result
        event(None, js=SHOW.format(result="told"), api_visibility="private")


def _are_shares(*values: Any) -> bool:
    """Whether all are numbers from 0 to 1; visitors can send anything."""
    return all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in values)


def theme() -> "gr.themes.Base":
    """gradio's plain theme with the overlay's colours and the system's fonts, so that none is fetched."""
    import gradio as gr

    fonts = ["system-ui", "sans-serif"]
    made = gr.themes.Base(
        primary_hue="cyan", secondary_hue="cyan", font=fonts, font_mono=["ui-monospace", "monospace"]
    )
    for mode in ("", "_dark"):
        for name in ("button_primary_background_fill", "button_primary_background_fill_hover", "slider_color"):
            made.set(**{f"{name}{mode}": ACCENT})
        made.set(**{f"button_primary_text_color{mode}": INK})
    made.set(body_text_color_subdued="*neutral_600")  # its own has a contrast of 2.6 to white
    return made
