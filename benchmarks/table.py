"""The tables of a benchmark as Markdown.

    python benchmarks/table.py outputs/benchmarks/benchmarks.json docs/speed.md

puts them into a Markdown file, between its lines `<!-- speed: begin -->` and `<!-- speed: end -->`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unet_kvasir_seg.benchmarks.measurement import (
    MATRIX_MULTIPLY,
    Measurement,
    peak_flops_per_second,
    read_benchmarks,
    share_of_peak,
    speed_up,
)
from unet_kvasir_seg.common.errors import UserError, user_errors
from unet_kvasir_seg.reporting.markdown import table
from unet_kvasir_seg.reporting.tables import update_document

SPEED_MARKERS = ("<!-- speed: begin -->", "<!-- speed: end -->")
HEADER = (
    "ms an image (spread)",
    "images/s",
    "GFLOP an image",
    "GFLOP/s",
    "share of peak",
    "speed-up",
    "first call, s",
    "peak memory, MB",
)
LEGEND = (
    "ms an image: median of the rounds, and in brackets their interquartile range; the contestants' turns alternate. "
    "GFLOP: a multiplication and an addition are two. Share of peak: of the device's fastest matrix multiplication in "
    "the same dtype, timed among the contestants. Speed-up: over the card's own way at the same width, or over the "
    "row without; the median of the rounds' ratios. First call: with compilation where there is one. Peak memory: of "
    "the process, which does not count a data loader's workers, or of the GPU's allocator."
)
NOTHING = "-"
DETAILS = ("scaling", "gradient checkpointing")  # parts whose names begin so are folded away in a document


def tables(environment: dict[str, Any], measurements: Sequence[Measurement], fold: bool = False) -> str:
    """Markdown: the machine and its peaks, a table for each part on each device, and what the columns mean.

    Args:
        environment, measurements: Of a benchmark.
        fold: Whether the tables of time and memory against size, batch and width are folded away.
    """
    contests = dict.fromkeys((one.part, one.device) for one in measurements if one.part != MATRIX_MULTIPLY)
    rows = {
        f"{part}, {device}": [
            [_name(one), *_numbers(one, measurements)]
            for one in measurements
            if (one.part, one.device) == (part, device)
        ]
        for part, device in contests
    }
    parts = {title: _without_empty_columns([title, *HEADER], cells) for title, cells in rows.items()}
    folded = [parts.pop(title) for title in list(parts) if fold and title.startswith(DETAILS)]
    if folded:
        summary = (
            "<details><summary>Scaling with image size, batch, width and workers; gradient checkpointing</summary>"
        )
        folded = [summary, *folded, "</details>"]
    return "\n\n".join([_setting(environment, measurements), *parts.values(), *folded, LEGEND])


def _setting(environment: dict[str, Any], measurements: Sequence[Measurement]) -> str:
    computed = dict.fromkeys((one.device, one.dtype) for one in measurements if one.part == MATRIX_MULTIPLY)
    peaks = (
        f"{_digits(peak_flops_per_second(measurements, device, dtype), 1e9)} GFLOP/s in {dtype} on {device}"
        for device, dtype in computed
    )
    facts = [
        ", ".join(f"{device}: {name}" for device, name in environment["devices"].items()),
        f"{environment['threads']} threads",
        f"Python {environment['python']}, torch {environment['torch']}, transformers {environment['transformers']}",
        f"unet-kvasir-seg {environment['code']}",
    ]
    missing = environment["missing_packages"]
    return (
        f"{'; '.join(facts)}."
        + (f" Fastest matrix multiplication: {', '.join(peaks)}." if computed else "")
        + (f" Left out, since not installed: {', '.join(missing)}." if missing else "")
    )


def _name(one: Measurement) -> str:
    return f"{one.name} ({one.dtype})" if one.dtype else one.name


def _numbers(one: Measurement, measurements: Sequence[Measurement]) -> list[str]:
    """One cell for each column of `HEADER`."""
    share, ratio = share_of_peak(one, measurements), speed_up(one, measurements)
    return [
        f"{_digits(1000 * one.median / one.images)} ({_digits(1000 * one.spread / one.images)})",
        _digits(one.images / one.median),
        _digits(one.flops, one.images * 1e9),
        _digits(one.flops_per_second, 1e9),
        NOTHING if share is None else f"{100 * share:.0f} %",
        NOTHING if ratio is None else f"{ratio:.2f}x",
        _digits(one.first_seconds),
        _digits(one.peak_bytes, 1e6),
    ]


def _digits(value: float | None, unit: float = 1.0) -> str:
    """Three digits, or all before the point."""
    if value is None:
        return NOTHING
    number = value / unit
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _without_empty_columns(header: Sequence[str], rows: list[list[str]]) -> str:
    """A table of the columns that hold something."""
    kept = [column for column in range(len(header)) if any(row[column] != NOTHING for row in rows)]
    return table([header[column] for column in kept], ([row[column] for column in kept] for row in rows))


def main(argv: list[str] | None = None) -> None:
    program = "python benchmarks/table.py"
    parser = argparse.ArgumentParser(
        prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("benchmarks", type=Path, help="benchmarks.json that speed.py wrote")
    parser.add_argument("document", type=Path, help="Markdown file that has the two lines")
    arguments = parser.parse_args(argv)
    with user_errors(program, OSError, kept="The document is as it was."):
        environment, measurements = read_benchmarks(arguments.benchmarks)
        if environment.get("quick"):
            raise UserError(
                f"{arguments.benchmarks} holds figures of --quick, which say that it works and not how fast: run "
                "benchmarks/speed.py without it."
            )
        update_document(arguments.document, tables(environment, measurements, fold=True), SPEED_MARKERS)
        print(f"Put the tables of {arguments.benchmarks} into {arguments.document}.")


if __name__ == "__main__":
    main()
