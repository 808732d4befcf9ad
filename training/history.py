"""The course of a training: loss and validation scores by step, as a table beside its results, and for its figure."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..common.csv_tables import open_table, write_row
from .failures import write_errors_explained
from .flag_checks import SCORE_NAMES

HISTORY_FILE = "history.csv"
# Column -> its name in the log of `Trainer`.
COLUMNS = {
    "step": "step",
    "epoch": "epoch",
    "loss": "loss",
    "learning_rate": "learning_rate",
    "gradient_norm": "grad_norm",
    "validation_loss": "eval_loss",
    **{f"validation_{score}": f"eval_{score}" for score in SCORE_NAMES},
}


def history_rows(log_history: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each step of the log of `Trainer` at which there was a loss or a validation, by `COLUMNS`.

    What was not measured at a step is missing in its row.
    """
    rows: dict[int, dict[str, Any]] = {}
    for log in log_history:
        if "loss" in log or "eval_loss" in log:
            row = {column: log[name] for column, name in COLUMNS.items() if name in log}
            rows[log["step"]] = rows.get(log["step"], {}) | row
    return [rows[step] for step in sorted(rows)]


def validation_curve(rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Epoch, loss and Dice per image of each validation."""
    columns = ("epoch", "validation_loss", "validation_dice_per_image")
    return [[row[column] for column in columns] for row in rows if "validation_loss" in row]


class WriteHistory(TrainerCallback):
    """Writes `history.csv` during a training. It is complete after resuming too: each checkpoint keeps the log.

    The evaluation after the training, of the weights that are kept, is no part of it.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.is_training = False

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.is_training = True
        self._write(state)

    def on_save(self, args, state, control, **kwargs) -> None:
        self._write(state)

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        self._write(state)

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        self._write(state)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self._write(state)
        self.is_training = False

    def _write(self, state) -> None:
        if not (self.is_training and state.is_world_process_zero):
            return
        file, rows = self.folder / HISTORY_FILE, history_rows(state.log_history)
        with write_errors_explained(file, self.folder):
            if not rows:
                file.unlink(missing_ok=True)  # of a run that was killed before its first checkpoint
                return
            with open_table(file) as table:
                write_row(table, list(COLUMNS))
                for row in rows:
                    write_row(table, [row.get(column, "") for column in COLUMNS])
