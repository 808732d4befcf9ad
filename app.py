"""A web page on which images and short videos are segmented: upload one, and see the polyps.

    python app.py                                            # the model of this clone, on http://127.0.0.1:7860
    python app.py --model me/unet-kvasir-seg --port 8000
    python app.py --host 0.0.0.0                             # for others on the network too: there is no password
    python app.py --push_to_space me/polyps --private        # as a Hugging Face Space, the weights of --model included

It needs `pip install -e ".[app]"` and no network. Images and videos stay on this machine: uploads are deleted within
ten minutes and when the program ends.
"""

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unet_kvasir_seg.common.command_line import DeviceFlags, FlagParser, ModelFlags, flag, program_name
from unet_kvasir_seg.common.errors import UserError, first_line, printable, require_extra, user_errors
from unet_kvasir_seg.common.interruptions import Interrupted, interruptions
from unet_kvasir_seg.common.paths import TRAINED_MODEL
from unet_kvasir_seg.inference.arguments import FIELD_OF_VIEW, known_field_of_view

# What imports torch, transformers or gradio is imported in the functions that run after the arguments are parsed, so
# that --help and a mistyped flag are answered at once.
if TYPE_CHECKING:
    from unet_kvasir_seg.inference.prediction import BasePredictor
    from unet_kvasir_seg.reporting.results import Results

PROGRAM = program_name("app.py")
EXAMPLES = 3
EXAMPLE_SIZE = (512, 640)  # height and width in pixels


@dataclass
class AppArguments(DeviceFlags, ModelFlags):
    """What to show, and where."""

    port: int = flag(7860, "Port of the page.")
    host: str = flag("127.0.0.1", "Address to listen on: 127.0.0.1 is this machine alone, 0.0.0.0 all.")
    push_to_space: str | None = flag(
        None,
        "Upload the page as this Space on the Hub, and do not show it here. It carries the weights of a --model that "
        "is a folder, and loads one that is on the Hub from there.",
    )
    field_of_view: str | None = flag(None, FIELD_OF_VIEW)
    private: bool = flag(False, "With --push_to_space: only you, or your organisation, can open the Space.")

    def __post_init__(self) -> None:
        self.field_of_view = known_field_of_view(self.field_of_view)


def find_results(model: str, revision: str | None, fingerprint: str) -> "Results | None":
    """The results.json beside a model's weights; None, and a line on stderr, if it is of other weights.

    Args:
        model, revision: As given to the command.
        fingerprint: The model's.
    """
    from unet_kvasir_seg.reporting.results import known_results

    try:
        results = known_results(model, revision)
        if results and results["model"].get("fingerprint") not in (None, fingerprint):
            raise UserError(f"The results.json of {model} is of other weights. Measure these with evaluation.py.")
    except UserError as error:
        print(f"{PROGRAM}: the page shows no scores: {first_line(error)}.", file=sys.stderr)
        return None
    return results


def show(arguments: AppArguments) -> None:
    """Serve the page until a signal ends the program.

    Raises:
        UserError: If the model cannot be loaded, or the address or the folder for temporary files cannot be used.
    """
    from unet_kvasir_seg.demo.cleaner import upload_folder
    from unet_kvasir_seg.demo.ending import exiting_at_once

    with exiting_at_once(), interruptions(PROGRAM, "All uploads are deleted."), upload_folder() as folder:
        predictor, results = load(arguments)
        name = results["model"]["name"] if results else Path(arguments.model or TRAINED_MODEL).name
        number = serve(predictor, name, results, folder, arguments.host, arguments.port)
        raise Interrupted(number)


def serve(predictor: "BasePredictor", name: str, results: "Results | None", folder: Path, host: str, port: int) -> int:
    """Serve the page until a signal asks the program to end; returns the signal's number.

    Raises:
        UserError: If the address cannot be used, or the folder for uploads cannot be written to.
    """
    from unet_kvasir_seg.data.synthetic import generate
    from unet_kvasir_seg.demo.ending import caught_signals, end_soon, wait_for
    from unet_kvasir_seg.demo.page import build_page
    from unet_kvasir_seg.demo.server import serving

    # With synthetic examples, nothing private is needed to try the page.
    examples = [row["image"] for row in generate(EXAMPLES, EXAMPLE_SIZE, seed=0)]
    page = build_page(predictor, name, predictor.model.num_parameters(), results, examples, folder)
    signals = caught_signals()
    with serving(page, folder, host, port) as address:
        print(f"{printable(name)} ({predictor.runtime}) is on {address} until Ctrl-C.", flush=True)
        number = wait_for(signals)
        end_soon(number)
    return number


def push(arguments: AppArguments) -> None:
    """Push the page as a Space.

    Raises:
        UserError: If the model cannot be loaded, or the push fails.
    """
    from unet_kvasir_seg.demo.ending import exiting_at_once
    from unet_kvasir_seg.demo.space import push_space  # not part of a Space itself

    kept = "The Space has all of the new files or none of them. Run the same command again."
    with exiting_at_once(), interruptions(PROGRAM, kept):
        predictor, results = load(arguments)
        model, space = arguments.model or str(TRAINED_MODEL), str(arguments.push_to_space)
        encoder, revision = predictor.model.config.encoder, arguments.model_revision
        shown = arguments.private, arguments.field_of_view
        print(f"Pushed: {push_space(space, model, revision, results, encoder, *shown)}")


def load(arguments: AppArguments) -> "tuple[BasePredictor, Results | None]":
    """The model, and its results.json if it has one.

    Raises:
        UserError: If the model cannot be loaded.
    """
    import transformers
    from PIL import Image
    from unet_kvasir_seg.inference.checkpoint import fingerprint
    from unet_kvasir_seg.inference.predictor import load_predictor

    transformers.utils.logging.disable_progress_bar()  # loading weights takes no time
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # such images are refused anyway
    model = arguments.model or str(TRAINED_MODEL)
    predictor = load_predictor(model, arguments.model_revision, arguments.device, arguments.dtype)
    predictor.field_of_view = arguments.field_of_view
    return predictor, find_results(model, arguments.model_revision, fingerprint(predictor.model))


def main(argv: list[str] | None = None) -> None:
    with user_errors(PROGRAM):
        parser = FlagParser([AppArguments], program=PROGRAM, description=__doc__)
        (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
        require_extra("app", "gradio", "av")
        if arguments.push_to_space:
            push(arguments)
        elif arguments.private:
            raise UserError("--private is of a Space: give --push_to_space OWNER/NAME too. A page has no password.")
        else:
            show(arguments)


if __name__ == "__main__":
    main()
