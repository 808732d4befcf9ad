"""What smoothing over time does to videos: flicker, Dice and delay on synthetic clips with known polyps.

    pip install -e ".[evaluation,video]"
    python benchmarks/smoothing.py                                  # the weights of this clone
    python benchmarks/smoothing.py --clips 4 --model me/unet        # quicker, and another model
    python benchmarks/smoothing.py --document docs/predicting.md    # puts the table there

Half of the clips show a polyp, which comes into view and leaves it as the camera passes; the others show none. The
network predicts each frame once; its maps are smoothed as `predict.py --smoothing` smooths them. Masks are made
afterwards: with the model's own peak threshold, if it has one, and so that every region counts.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unet_kvasir_seg.common.errors import UserError, require_extra, user_errors

PROGRAM, KEPT = "smoothing.py", "No measurement is kept: run the same command again."

with user_errors(PROGRAM, kept=KEPT):  # large libraries: Ctrl-C is answered while they are imported, too
    require_extra("video", "av")
    import numpy as np
    from tqdm.auto import tqdm
    from unet_kvasir_seg.common.command_line import DeviceFlags, FlagParser, ModelFlags, flag
    from unet_kvasir_seg.common.paths import TRAINED_MODEL
    from unet_kvasir_seg.data.clips import NUM_FRAMES, Clip, ClipFrame, generate_clips
    from unet_kvasir_seg.inference.prediction import BasePredictor, Prediction
    from unet_kvasir_seg.inference.predictor import load_predictor
    from unet_kvasir_seg.inference.video import Frame, smoothed
    from unet_kvasir_seg.reporting.markdown import interval, table
    from unet_kvasir_seg.reporting.tables import parts_around, update_document
    from unet_kvasir_seg.scoring.intervals import mean_and_interval
    from unet_kvasir_seg.scoring.overlap import mask_dice
    from unet_kvasir_seg.scoring.sequences import SequenceScores, VideoFrame, score_sequence, summarise_sequences

SMOOTHINGS = (0.0, 0.3, 0.6, 0.9)
MARKERS = ("<!-- smoothing: begin -->", "<!-- smoothing: end -->")
COLUMNS = (
    *("peak threshold", "smoothing", "flicker", "Dice of frames with polyp", "polyps alerted"),
    *("seconds to the first alert, median", "alerts per minute that lie on no polyp"),
    "alerts per minute of clips without polyp",
)


@dataclass
class SmoothingArguments(DeviceFlags, ModelFlags):
    """What is measured, and where its table goes."""

    clips: int = flag(40, "Number of clips.")
    seed: int = flag(0, "Of the clips.")
    batch_size: int = flag(8, "Frames that go through the network together.")
    document: str | None = flag(None, f"A Markdown file with the lines {MARKERS[0]} and {MARKERS[1]}, for the table.")

    def __post_init__(self) -> None:
        for name, least in (("clips", 2), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} {getattr(self, name)} is too few: expected {least} or more.")


@dataclass(frozen=True)
class SmoothedClip:
    """The scores of a clip at one smoothing.

    Attributes:
        video: Of the video.
        dice: Mean over its frames that show a polyp; None if none does.
    """

    video: SequenceScores
    dice: float | None


def score_clip(
    clip: Clip, predictor: BasePredictor, peaks: Sequence[float | None], batch_size: int
) -> dict[tuple[float | None, float], SmoothedClip]:
    """Score a clip with each peak threshold at each of the `SMOOTHINGS`; None: every region counts."""
    frames = list(clip.frames())
    predictions: list[Prediction] = []
    for start in range(0, len(frames), batch_size):
        predictions += predictor.batch([frame.image for frame in frames[start : start + batch_size]])
    found = {}
    for smoothing in SMOOTHINGS:
        smooth_predictions = list(smooth(frames, predictions, smoothing))
        for peak in peaks:
            masks = [replace(prediction, peak_threshold=peak).mask for prediction in smooth_predictions]
            found[peak, smoothing] = score_masks(clip, frames, masks)
    return found


def smooth(frames: Sequence[ClipFrame], predictions: Sequence[Prediction], smoothing: float) -> Iterator[Prediction]:
    """The predictions of a clip, smoothed as those of a video are."""
    numbered = (Frame(index, index, 1, float(index), frame.image) for index, frame in enumerate(frames))
    pairs = zip(numbered, predictions, strict=True)
    return (prediction for _, prediction in smoothed(pairs, smoothing))


def score_masks(clip: Clip, frames: Sequence[ClipFrame], masks: Sequence[np.ndarray]) -> SmoothedClip:
    """Score the masks (H, W) bool of a clip's frames."""
    pairs = [(mask, frame.labels > 0) for mask, frame in zip(masks, frames, strict=True)]
    kept = [VideoFrame.of(frame.image, *pair) for frame, pair in zip(frames, pairs, strict=True)]
    dice = [mask_dice(mask, ground_truth) for mask, ground_truth in pairs if ground_truth.any()]
    return SmoothedClip(score_sequence(enumerate(kept), clip.rate), float(np.mean(dice)) if dice else None)


def row(peak: float | None, smoothing: float, clips: Sequence[SmoothedClip]) -> list[str]:
    """A row of the table."""
    scores = summarise_sequences([clip.video for clip in clips])
    dice = mean_and_interval(np.array([clip.dice for clip in clips if clip.dice is not None]))
    names = ("polyps_alerted", "median_delay_seconds", "false_alerts_per_minute", "alerts_per_minute_without_polyp")
    cells = [scores["flicker"], dice, *(scores[name] for name in names)]
    return ["none" if peak is None else f"{peak:.3g}", f"{smoothing:g}", *map(interval, cells)]


def measure(arguments: SmoothingArguments) -> str:
    """The table, as Markdown.

    Raises:
        UserError: If the model cannot be loaded.
    """
    model = arguments.model or str(TRAINED_MODEL)
    predictor = load_predictor(model, arguments.model_revision, arguments.device, arguments.dtype)
    peaks = list(dict.fromkeys([predictor.peak_threshold, None]))
    clips = generate_clips(arguments.clips, polyps=(1, 0), seed=arguments.seed)
    found = [
        score_clip(clip, predictor, peaks, arguments.batch_size)
        for clip in tqdm(clips, total=arguments.clips, unit="clip", smoothing=0)
    ]
    caption = f"{arguments.clips} clips of {NUM_FRAMES} frames of 384x288, 25 a second; in brackets 95 % intervals:"
    rows = [
        row(peak, smoothing, [scores[peak, smoothing] for scores in found])
        for peak in peaks
        for smoothing in SMOOTHINGS
    ]
    return f"{caption}\n\n{table(COLUMNS, rows)}"


def main(argv: list[str] | None = None) -> None:
    with user_errors(PROGRAM, OSError, kept=KEPT):
        parser = FlagParser([SmoothingArguments], program=PROGRAM, description=__doc__)
        (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
        document = None if arguments.document is None else Path(arguments.document)
        if document is not None:
            parts_around(document, MARKERS)  # one without a place for the table is named before the work
        text = measure(arguments)
        print(text)
        if document is not None:
            update_document(document, text, MARKERS)


if __name__ == "__main__":
    main()
