"""Convert the weights of another plain U-Net into a checkpoint of this project.

    python convert.py unet.pth --concat skip-first --output_dir outputs/converted
    python convert.py folder/with/model.safetensors/in/it --concat skip-first --output_dir outputs/converted
    python convert.py unet.safetensors --concat upsampled-first --output_dir outputs/converted

A plain U-Net has two 3x3 convolutions per level, 2x2 max-pooling, upsampling that halves the channels, skips by
concatenation, and one logit. Names of its modules do not matter: layers are assigned by shape, and those of one shape
by the similarity of their names. If any weight does not fit, nothing is converted, and all misfits are listed.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unet_kvasir_seg.common.command_line import add_version, in_words_of, program_name
from unet_kvasir_seg.common.errors import UserError, user_errors
from unet_kvasir_seg.common.imports import quick_imports

PROGRAM = program_name("convert.py")
UNFINISHED = ".unfinished"  # folder in the output folder

# Torch and transformers are imported after the arguments were parsed, so that --help is answered at once.
if TYPE_CHECKING:
    from unet_kvasir_seg.configuration_unet import UNetConfig
    from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
    from unet_kvasir_seg.modeling_unet import UNetForSemanticSegmentation


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=in_words_of(PROGRAM, __doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_version(parser)
    parser.add_argument(
        "source", type=Path, help="State dict: .safetensors, .pt, .pth, .bin, or a folder with model.safetensors."
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder to write the checkpoint into.")
    parser.add_argument(
        "--norm",
        help="Normalisation: none, batch, group or instance. The first two are found from the weights; group and "
        "instance must be named.",
    )
    parser.add_argument("--num_groups", type=int, default=8, help="Groups of group normalisation (%(default)s).")
    parser.add_argument(
        "--concat",
        required=True,
        help="Order in which the decoder concatenates: skip-first or upsampled-first. Weights do not show it, and the "
        "wrong one gives wrong masks without an error, so read it in the network's code: torch.cat([skip, x], 1) is "
        "skip-first, as in the paper's figure; torch.cat([x, skip], 1), common where modules are called enc1, "
        "upconv1, dec1, is upsampled-first.",
    )
    return parser.parse_args(argv)


def check_output_folder(folder: Path) -> None:
    """Refuse a folder that holds a model already.

    Raises:
        UserError: The message names the files.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_dir {folder} is a file. Choose a folder.")
    held = sorted(path.name for pattern in ("config.json", "*.safetensors", "*.bin") for path in folder.glob(pattern))
    if held:
        raise UserError(f"{folder} holds a model already ({', '.join(held)}). Choose another --output_dir.")


def convert(arguments: argparse.Namespace) -> tuple["UNetConfig", int]:
    """Write the checkpoint; returns its architecture and number of parameters.

    Raises:
        UserError: If the source cannot be read or converted, or the output folder holds a model.
        OSError: If a file cannot be written.
    """
    folder = arguments.output_dir
    check_output_folder(folder)
    with quick_imports():
        from unet_kvasir_seg.common.output_lock import output_lock
        from unet_kvasir_seg.image_processing_unet import UNetImageProcessor
        from unet_kvasir_seg.inference.conversion import convert_model, read_state_dict

    model = convert_model(
        read_state_dict(arguments.source),
        norm=arguments.norm,
        num_groups=arguments.num_groups,
        concat=arguments.concat,
    )
    with output_lock(folder, PROGRAM):  # not before: what cannot be converted leaves no folder
        check_output_folder(folder)
        write(folder, model, UNetImageProcessor())
    return model.config, model.num_parameters()


def write(folder: Path, *parts: "UNetForSemanticSegmentation | UNetImageProcessor") -> None:
    """Write network and image processor, all files of them or none.

    Raises:
        UserError: If a file cannot be written.
    """
    from safetensors import SafetensorError
    from unet_kvasir_seg.common.files import give_usual_permissions

    unfinished = folder / UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)  # of a killed run
    try:
        for part in parts:
            part.save_pretrained(unfinished)
        give_usual_permissions(unfinished.glob("*.safetensors"))
        # Without these, moved last, it is no model, and the command can be run again.
        last = ("model.safetensors", "config.json")
        for file in sorted(unfinished.iterdir(), key=lambda file: last.index(file.name) if file.name in last else -1):
            file.replace(folder / file.name)
    except SafetensorError as error:  # which is what it makes of a full disk
        raise UserError(f"{folder} cannot be written to: {error}.") from error
    except OSError as error:
        name = Path(error.filename2 or error.filename or "").name  # the others are of a folder that will not be there
        raise UserError(f"{folder / name} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def main(argv: list[str] | None = None) -> None:
    with user_errors(PROGRAM, OSError, kept="Nothing is written: run the same command again."):
        arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
        config, parameters = convert(arguments)
        describe(arguments, config, parameters)


def describe(arguments: argparse.Namespace, config: "UNetConfig", parameters: int) -> None:
    """Print what was written, and what was assumed."""
    print(
        f"{arguments.output_dir} holds a U-Net of {parameters:,} parameters: base_channels={config.base_channels}, "
        f"depth={config.depth}, num_channels={config.num_channels}, norm={config.norm}, "
        f"upsampling={config.upsampling}.\n"
        f"Weights do not show everything; look at some masks. Assumed: {arguments.concat} concatenation (--concat), "
        "zero padding, ReLU, epsilon 1e-5, no aligned corners; images of 256x256 in RGB scaled to [0, 1] (edit "
        "preprocessor_config.json if the network was trained on others)."
    )
    if config.num_channels != 3:
        print(f"The image processor makes 3 channels, not {config.num_channels}: make `pixel_values` yourself.")


if __name__ == "__main__":
    main()
