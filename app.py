"""A web page on which images and short videos are segmented: upload one, and see the polyps.

    python app.py                                            # the model of this clone, on http://127.0.0.1:7860
    python app.py --model me/unet-kvasir-seg --port 8000
    python app.py --host 0.0.0.0                             # for others on the network too: there is no password
    python app.py --push_to_space me/polyps --private        # as a Hugging Face Space, the weights of --model included

It needs `pip install -e ".[app]"` and no network. Images and videos stay on this machine: uploads are deleted within
ten minutes and when the program ends.
"""

import signal
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unet_kvasir_seg.common.command_line import DeviceFlags, FlagParser, ModelFlags, flag
from unet_kvasir_seg.common.errors import UserError, first_line, printable, require_extra, user_errors
from unet_kvasir_seg.common.paths import TRAINED_MODEL

# What imports torch, transformers or gradio is imported in the functions that run after the arguments are parsed, so
# that --help and a mistyped flag are answered at once.
if TYPE_CHECKING:
    from unet_kvasir_seg.inference.prediction import BasePredictor
    from unet_kvasir_seg.reporting.results import Results

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
    private: bool = flag(False, "With --push_to_space: only you, or your organisation, can open the Space.")


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
        print(f"app.py: the page shows no scores: {first_line(error)}.", file=sys.stderr)
        return None
    return results


def serve(predictor: "BasePredictor", name: str, results: "Results | None", host: str, port: int) -> None:
    """Serve the page until the program is interrupted.

    Raises:
        UserError: If the address cannot be used.
    """
    from unet_kvasir_seg.data.synthetic import generate
    from unet_kvasir_seg.demo.cleaner import upload_folder
    from unet_kvasir_seg.demo.page import build_page
    from unet_kvasir_seg.demo.server import serving

    end = end_of_program()
    # With synthetic examples, nothing private is needed to try the page.
    examples = [row["image"] for row in generate(EXAMPLES, EXAMPLE_SIZE, seed=0)]
    with upload_folder() as folder:
        page = build_page(predictor, name, predictor.model.num_parameters(), results, examples, folder)
        with serving(page, folder, host, port) as address:
            print(f"{printable(name)} ({predictor.runtime}) is on {address} until Ctrl-C.", flush=True)
            while not end.wait(timeout=1):  # without a timeout, Windows would not see Ctrl-C
                pass


def end_of_program() -> threading.Event:
    """Set by Ctrl-C, by what ends services, and by a terminal that closes; not by what is to be ignored."""
    end = threading.Event()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # as with nohup
            signal.signal(number, lambda *_: end.set())
    return end


def run(arguments: AppArguments) -> None:
    """Load the model, and show the page or push it as a Space.

    Raises:
        UserError: If the model cannot be loaded, the address cannot be used, or the push fails.
    """
    require_extra("app", "gradio", "av")
    import transformers
    from PIL import Image
    from unet_kvasir_seg.inference.checkpoint import fingerprint
    from unet_kvasir_seg.inference.predictor import load_predictor

    transformers.utils.logging.disable_progress_bar()  # loading weights takes no time
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # such images are refused anyway
    model = arguments.model or str(TRAINED_MODEL)
    predictor = load_predictor(model, arguments.model_revision, arguments.device, arguments.dtype)
    results = find_results(model, arguments.model_revision, fingerprint(predictor.model))
    if arguments.push_to_space:
        from unet_kvasir_seg.demo.space import push_space  # not part of a Space itself

        encoder = predictor.model.config.encoder
        space, revision = arguments.push_to_space, arguments.model_revision
        print(f"Pushed: {push_space(space, model, revision, results, encoder, arguments.private)}")
    elif arguments.private:
        raise UserError("--private is of a Space: give --push_to_space OWNER/NAME too. A page has no password.")
    else:
        name = results["model"]["name"] if results else Path(model).name
        serve(predictor, name, results, arguments.host, arguments.port)


def main(argv: list[str] | None = None) -> None:
    with user_errors("app.py"):
        parser = FlagParser([AppArguments], program="app.py", description=__doc__)
        (arguments,) = parser.parse(sys.argv[1:] if argv is None else argv)
        run(arguments)


if __name__ == "__main__":
    main()
