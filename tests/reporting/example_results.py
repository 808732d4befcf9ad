"""Results of a training and of an evaluation, no two figures of which are alike; finding figures in Markdown."""

import copy
import itertools
import re

VALIDATION = {
    "loss": 0.51,
    "dice_per_image": 0.71234567,
    "iou_per_image": 0.6,
    "dice_pooled": 0.81,
    "precision": 0.9,
    "recall": 0.75,
}
METRICS = (
    *(
        f"{score}_{size}"
        for size in ("native", "network")
        for score in ("dice_per_image", "iou_per_image", "dice_pooled", "iou_pooled")
    ),
    *("dice_256_thresholds_native", "dice_256_thresholds_minmax_native", "precision_per_image_native"),
    *("recall_per_image_native", "f2_per_image_native", "accuracy_per_image_native", "precision_pooled_native"),
    *("recall_pooled_native", "f2_pooled_native", "mae_native", "s_measure_native", "e_measure_native"),
    *("weighted_f_native", "hd95_native", "nsd_native", "ece_native"),
)
VIDEO_SCORES = (
    *("polyps_alerted", "median_delay_seconds", "false_alerts_per_minute", "alerts_per_minute_without_polyp"),
    "flicker",
)
TEST_SET_SCORES = (
    *("dice_per_image_native", "dice_pooled_native", "iou_per_image_native", "dice_256_thresholds_minmax_native"),
)
SCORE = r"([\d.]+) \[([\d.]+), ([\d.]+)\]"


def trained_results() -> dict:
    """Results of a training, with figures that no other run has."""
    data = {
        "name": "team/polyps",
        "on_the_hub": True,
        "revision": "abc123",
        "split": None,
        "rows": {"train": 801, "validation": 99},
        "fingerprint": "sha256:" + "d" * 64,
    }
    environment = {
        "python": "3.11.7",
        "torch": "2.14.1",
        "transformers": "5.23.0",
        "runtime": "cpu, float32, channels_last",
        "processes": 2,
        "code": "0.1.0 (commit abc1234)",
    }
    return {
        "schema_version": 1,
        "model": {
            "name": "unet-x",
            "repository": "team/unet-x",
            "parameters": 1234567,
            "image_size": [192, 256],
            "channels": [12, 24, 48, 96],
            "depth": 3,
            "norm": "batch",
            "upsampling": "bilinear",
            "dropout": 0.0,
            "block": "residual",
            "decoder_channels": None,
            "loss": "bce_dice",
            "fingerprint": "sha256:" + "e" * 64,
        },
        "data": data,
        "environment": environment,
        "training": {
            "data": copy.deepcopy(data),
            "environment": copy.deepcopy(environment),
            "epochs": 7,
            "batch_size": 16,
            "learning_rate": 0.00025,
            "schedule": "cosine",
            "weight_decay": 0.0,
            "seed": 43,
            "augmentation": "card",
            "ema_decay": 0.9876,
            "warmup_steps": 1500.0,
            "progressive_sizes": None,
            "fine_tuned": False,
            "seconds": 1620.0,
            "loss": [[1.0, 1.25], [2.0, 0.75]],
            "validation_curve": [[1.0, 1.375, 0.3125], [2.0, 0.875, 0.5625]],
            "base_model": None,
            "best_step": 300,
            "steps": 350,
            "validation": VALIDATION,
        },
        "metrics": {},
        "evaluation": None,
    }


def evaluated_results() -> dict:
    """Results of the training and of an evaluation on another data set, no two figures of which are alike."""
    results = trained_results()
    ladder = itertools.count(1)

    def score() -> dict:
        value = 0.1 + 0.00831 * next(ladder)
        return {"value": value, "ci95": [value - 0.0213, value + 0.0317]}

    def stratum(images: int) -> dict:
        names = ("dice_per_image_native", "iou_per_image_native", "recall_per_image_native")
        return {"images": images, "metrics": {name: score() for name in names} if images else {}}

    def point(peaks: list[float], found: int, alarms: int) -> dict:
        counts = {"polyps": 67, "found": found, "negatives": 500, "alarms": alarms}
        names = ("found_share", "sensitivity", "dice_per_image_native", "false_per_image", "alarm_share")
        marked = {"value": 0.000123 * alarms, "ci95": [0.000107 * alarms, 0.000139 * alarms]}
        return {"peaks": peaks, **counts, **{name: score() for name in names}, "marked_share": marked}

    def difference(p_value: float) -> dict:
        return {"difference": 0.0456, "ci95": [-0.0123, 0.0987], "p_value": p_value, "images": 61}

    def video(polyps: int, delays: list[float], alerts: int, false_alerts: int) -> dict:
        counts = {"frames": 61, "seconds": 2.035, "polyps": polyps, "alerts": alerts, "false_alerts": false_alerts}
        return {**counts, "delays": delays, "flicker": None, "shows_polyp": polyps > 0}

    def changed(loss: float, level: str | None = None) -> dict:
        scores = {"dice_per_image_native": score(), "relative_loss": loss, "alarm_share": score()}
        return scores if level is None else {"level": level, **scores}

    def test_set(name: str, images: int) -> dict:
        scores = {name: score() for name in TEST_SET_SCORES}
        counted = {"name": name, "images": images, "fingerprint": "sha256:" + "b" * 64}
        return {**counted, "scores": scores, "difference": difference(0.0432)}

    metrics = {name: score() for name in METRICS}
    metrics["hd95_native"] = {"value": 45.67, "ci95": [40.12, 51.28]}
    results["data"] = {
        "name": "other/frames",
        "on_the_hub": True,
        "revision": "def456",
        "split": "test",
        "rows": {"test": 61},
        "fingerprint": "sha256:" + "f" * 64,
    }
    results["environment"] = results["environment"] | {"processes": 1, "runtime": "cuda, bfloat16, channels_last"}
    results["metrics"] = metrics
    results["evaluation"] = {
        "threshold": {
            "value": 98.5 / 255,
            "tuned_on": "validation",
            "at_half": {"dice_per_image_native": score(), "iou_per_image_native": score()},
        },
        "native_size": "384x288",
        "protocol": {
            "surface_tolerance": 3.0,
            "resamples": 5432,
            "seed": 17,
            "small_below": 0.04,
            "large_from": 0.23,
            "lesion_iou": 0.55,
            "test_time_augmentation": False,
            "min_polyp_pixels": 19,
        },
        "seconds": 12.3,
        "model_seconds": 4.5,
        "strata": {
            "size": {"small": stratum(21), "medium": stratum(33), "large": stratum(0)},
            "polyps": {"one": stratum(41), "two": stratum(11), "three or more": stratum(2)},
        },
        "lesions": {
            "true": 69,
            "found": 48,
            "predicted": 77,
            "false": 29,
            "sensitivity": score(),
            "precision": score(),
            "false_per_image": score(),
        },
        "without_polyp": {"images": 7, "false_alarms": 5, "share": score(), "area_share": 0.0321},
        "calibration": {
            "bins": [
                {
                    "low": i / 15,
                    "high": (i + 1) / 15,
                    "pixels": 0 if i == 8 else 12345 + i,
                    "mean_probability": None if i == 8 else (i + 0.47) / 15,
                    "polyp_share": None if i == 8 else (i + 0.21) / 15,
                }
                for i in range(15)
            ]
        },
        "threshold_curve": {"thresholds": [(k - 0.5) / 255 for k in range(1, 256)], "dice_per_image": [0.5] * 255},
        "comparison": {
            "other": "their-net",
            "metrics": {"dice_per_image_native": difference(0.0321), "iou_per_image_native": difference(1 / 5433)},
        },
        "audit": {
            "max_distance": 6,
            "pairs": [
                {"splits": ["train", "test"], "rows": [3, 5], "distance": 2},
                {"splits": ["train", "test"], "rows": [7, 0], "distance": 0},
            ],
            "left_out": 2,
            "metrics": {"dice_per_image_native": score(), "iou_per_image_native": score()},
        },
        "figures": [],
        "peak": {
            "values": [0.98765],
            "source": "tuned",
            "chosen_on_split": False,
            "tuning": {
                "split": "validation",
                "sensitivity": 0.973,
                "value": 0.98765,
                "presence_calibration": [1.23, -4.56],
                "points": [point([], 64, 431), point([0.98765], 63, 29)],
            },
        },
        "operating_points": [point([], 59, 417), point([0.98765], 57, 23)],
        "negatives": {
            "kind": "windows",
            "name": "test",
            "fingerprint": "sha256:" + "a" * 64,
            "images": 500,
            "frames": 58,
            "with_polyp": 54,
            "presence_auc": score(),
            "at_specificity": [
                {"specificity": 0.95, "peak_above": 0.9753, "sensitivity": score()},
                {"specificity": 0.99, "peak_above": 0.9951, "sensitivity": score()},
            ],
            "froc": [
                {"peak_threshold": peak, "found_share": score(), "false_per_image": score()}
                for peak in (None, 0.9, 0.998)
            ],
        },
        "videos": {
            "frame_rate": 29.97,
            "alert_seconds": 0.75,
            "gap_seconds": 0.45,
            "sequences": [
                video(polyps=3, delays=[0.76, 1.31], alerts=6, false_alerts=4),
                video(polyps=0, delays=[], alerts=13, false_alerts=13),
            ],
            "without_polyp": 1,
            "polyps": 3,
            "alerted": 2,
            "alerts": 19,
            "false_alerts": 17,
            **{name: score() for name in VIDEO_SCORES},
        },
        "robustness": {
            "seed": 19,
            "plain": changed(0.0),
            "changes": [
                {
                    "name": name,
                    "strengths": [changed(0.01 * place, f"{name} {place}") for place in range(1, 6)],
                    "mean": changed(loss),
                }
                for name, loss in (("noise", 0.0345), ("JPEG", 0.0567))
            ],
            "mean": changed(0.0789),
            "seconds": 123.4,
        },
    }
    results["test_sets"] = {
        "sets": [test_set("CVC-300", 60), test_set("another set", 7)],
        "failed": ["Kvasir"],
        "mean": {name: score() for name in TEST_SET_SCORES},
        "other": "their-net",
        "threshold": 0.5,
        "peak_threshold": 0.9765,
        "resamples": 5433,
        "seed": 23,
    }
    return results


def section(text: str, name: str) -> str:
    """What stands under the heading `## name`."""
    return re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)[1]


def cells(text: str, first: str) -> list[str]:
    """The cells of the only table row that begins with `first`, without it."""
    (row,) = (line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in row.strip("|").split("|")][1:]
