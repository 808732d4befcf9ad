"""The model card gives back the figures it was filled with; the documents hold together."""

import re

import pytest
import yaml
from conftest import ROOT
from example_results import SCORE, VALIDATION, cells, evaluated_results, section, trained_results
from huggingface_hub import ModelCard
from unet_kvasir_seg.data import augmentation
from unet_kvasir_seg.losses_unet import LOSSES
from unet_kvasir_seg.reporting.model_card import AUGMENTATIONS, PICTURES, fill_card
from unet_kvasir_seg.reporting.results import check_results
from unet_kvasir_seg.reporting.tables import results_tables

# The row of the card's table and the column (1: native, 2: network) that each figure must stand in.
ROWS = {
    "dice_per_image": "Dice, mean per image",
    "iou_per_image": "IoU, mean per image",
    "dice_pooled": "Dice, pooled",
    "iou_pooled": "IoU, pooled",
    "dice_256_thresholds": "Dice, mean over 256 thresholds",
    "dice_256_thresholds_minmax": "Dice, mean over 256 thresholds, min-max (PraNet's)",
    "precision_per_image": "precision, mean per image",
    "recall_per_image": "recall, mean per image",
    "f2_per_image": "F2, mean per image",
    "accuracy_per_image": "accuracy, mean per image",
    "precision_pooled": "precision, pooled",
    "recall_pooled": "recall, pooled",
    "f2_pooled": "F2, pooled",
    "mae": "mean absolute error (lower is better)",
    "s_measure": "S-measure",
    "e_measure": "E-measure",
    "weighted_f": "weighted F",
    "hd95": "HD95 in pixels (lower is better)",
    "nsd": "normalised surface Dice",
    "ece": "calibration error (lower is better)",
}
SECTIONS = (
    *("Model details", "Uses", "Input and output", "Data and splits", "Training", "Evaluation protocol", "Results"),
    *(
        "Frames without polyp",
        "Videos",
        "Test sets",
        "Robustness",
        "Failure pictures",
        "Calibration",
        "ONNX",
        "Limitations and bias",
        "Environment and cost",
    ),
    *("Licence", "Citation"),
)


@pytest.fixture
def results() -> dict:
    """Results of a training."""
    return trained_results()


@pytest.fixture
def evaluated() -> dict:
    """Results of the training and of an evaluation on another data set, with all pictures."""
    results = evaluated_results()
    results["evaluation"]["figures"] = sorted(PICTURES)
    return results


VARIANTS = [
    "training only",
    "everything",
    "evaluation only",
    "masks from a folder",
    "bare",
    "earlier version",
    "nothing",
]


@pytest.fixture(params=VARIANTS)
def variant(request, evaluated) -> dict:
    """Results in every state that they are written in."""
    nothing_measured = {"metrics": {}, "evaluation": None}
    if request.param == "training only":
        return evaluated | nothing_measured | {name: evaluated["training"][name] for name in ("data", "environment")}
    if request.param == "evaluation only":
        return evaluated | {"training": None}
    if request.param == "masks from a folder":
        masks = {"name": "their-masks", "repository": None, "fingerprint": None}
        metrics = {name: score for name, score in evaluated["metrics"].items() if not name.endswith("_network")}
        return evaluated | {"training": None, "model": masks, "metrics": metrics}
    if request.param == "bare":
        nothing = {"audit": None, "comparison": None, "figures": []}
        nothing["threshold"] = {"value": 0.5, "tuned_on": None, "at_half": None}
        nothing["peak"] = {"values": [], "source": "none", "chosen_on_split": False, "tuning": None}
        nothing["negatives"] = None
        nothing["without_polyp"] = {"images": 0, "false_alarms": 0, "share": None, "area_share": None}
        none_there = {"true": 0, "found": 0, "predicted": 0, "false": 0, "sensitivity": None, "precision": None}
        nothing["lesions"] = none_there | {"false_per_image": {"value": 0.0, "ci95": [0.0, 0.0]}}
        return evaluated | {"evaluation": evaluated["evaluation"] | nothing}
    if request.param == "earlier version":
        for name in ("peak", "operating_points", "negatives"):
            del evaluated["evaluation"][name]
        del evaluated["evaluation"]["protocol"]["min_polyp_pixels"]
    if request.param == "nothing":
        return evaluated | nothing_measured | {"training": None}
    return evaluated


def test_the_metadata_of_a_training_gives_the_same_figures_back(results):
    data = ModelCard(fill_card(results)).data
    assert data.pipeline_tag == "image-segmentation"
    assert data.library_name == "transformers"
    assert data.license == "other"
    assert data.metrics == ["dice", "mean_iou"]
    assert "polyp-segmentation" in data.tags
    assert data.datasets == ["team/polyps"]
    assert data.model_name == "unet-x"
    got = {result.metric_type: result.metric_value for result in data.eval_results}
    assert got == {name: VALIDATION[name] for name in ("dice_per_image", "iou_per_image", "dice_pooled")}
    assert {(result.dataset_revision, result.dataset_split) for result in data.eval_results} == {
        ("abc123", "validation")
    }
    # Width x height, as the original sizes are.
    assert all("input size 256x192" in result.metric_name for result in data.eval_results)


@pytest.mark.parametrize(
    ("base_model", "in_metadata", "stated"),
    [
        ("me/unet", "me/unet", "the checkpoint [me/unet](https://huggingface.co/me/unet) (fine-tuning)"),
        (None, None, "a checkpoint (fine-tuning)"),  # a folder, whose path is private
        ("team/unet-x", None, "the checkpoint [team/unet-x](https://huggingface.co/team/unet-x) (fine-tuning)"),
    ],
)
def test_the_start_of_a_fine_tuned_model_is_stated(results, base_model, in_metadata, stated):
    """In the Hub's metadata too, unless the model takes the place of the one that it started from."""
    results["training"] |= {"fine_tuned": True, "base_model": base_model}
    card = ModelCard(fill_card(results))
    assert card.data.base_model == in_metadata
    assert f"| start | {stated} |" in card.text
    assert "validation curve" not in card.text  # its figures are in the picture
    assert ModelCard(fill_card(evaluated_results())).data.base_model is None


def test_the_metadata_of_an_evaluation_gives_the_same_figures_back(evaluated):
    data = ModelCard(fill_card(evaluated)).data
    # What it was trained on; what it was scored on stands in the model-index.
    assert data.datasets == ["team/polyps"]
    names = ("dice_per_image_native", "iou_per_image_native", "dice_pooled_native", "iou_pooled_native")
    assert {result.metric_type: result.metric_value for result in data.eval_results} == {
        name: evaluated["metrics"][name]["value"] for name in names
    }
    places = {
        (result.dataset_type, result.dataset_name, result.dataset_split, result.dataset_revision)
        for result in data.eval_results
    }
    assert places == {("other/frames", "other/frames", "test", "def456")}
    assert all("original size 384x288" in result.metric_name for result in data.eval_results)


def test_each_exported_file_is_listed_with_its_differences(results):
    assert section(fill_card(results), "ONNX").strip() == "Not exported."

    def export(name: str, precision: str, size: int, layers: list[str], dice: dict | None, equal: float) -> dict:
        proof = {"images": 9, "data": "team/polyps", "dice": dice, "equal_mask_pixels": equal}
        return {"file": name, "precision": precision, "bytes": size, "float_layers": layers, "proof": proof}

    results["exports"] = {
        "fp32": export("model.onnx", "fp32", 13_456_000, [], None, 1.0),
        "fp16": export("a.onnx", "fp16", 6_700_000, ["classifier"], {"mean_difference": 0.0, "worst_image": 0.0}, 1.0),
        "int8": export(
            *("model_int8.onnx", "int8", 3_504_999, ["stem", "classifier"]),
            *({"mean_difference": -0.00124, "worst_image": -0.0306}, 0.998765),
        ),
    }
    table = section(fill_card(results), "ONNX")
    compared = "9 images: team/polyps"
    assert cells(table, "`onnx/model.onnx`") == ["fp32", "13.46", "-", "-", "100.000 %", "all", compared]
    assert cells(table, "`onnx/a.onnx`")[2:6] == ["+0.0000", "+0.0000", "100.000 %", "classifier"]
    row = ["int8", "3.50", "-0.0012", "-0.0306", "99.877 %", "stem, classifier", compared]
    assert cells(table, "`onnx/model_int8.onnx`") == row
    assert "Not exported" not in table
    results["exports"]["int8"]["float_layers"] = []
    assert cells(section(fill_card(results), "ONNX"), "`onnx/model_int8.onnx`")[5] == "none"


def test_without_scores_there_is_no_model_index(results):
    data = ModelCard(fill_card(results | {"training": None})).data
    assert data.eval_results is None
    assert data.datasets is None


def test_the_text_holds_every_figure_of_the_training(results):
    text = fill_card(results)
    figures = (
        *("1,234,567", "801 train", "99 validation", "0.00025", "cosine", "1.250 (epoch 1), 0.750 (epoch 2)"),
        *(
            "depth 3, channels of the levels 12, 24, 48, 96, norm batch",
            "block residual",
            "ema decay 0.9876",
            "warmup steps 1500",
            "step 300 of 350",
            "27 min",
            "2 processes",
            "0.1.0 (commit abc1234)",
            "sha256:" + "e" * 64,
        ),
    )
    for figure in figures:
        assert figure in text
    assert "1500.0" not in text
    table = section(text, "Results")
    assert cells(table, "score on the validation split") == ["input size 256x192"]
    names = ("loss", "Dice, mean per image", "IoU, mean per image", "Dice, pooled")
    names += ("precision, pooled", "recall, pooled")
    assert [float(cells(table, name)[0]) for name in names] == pytest.approx(list(VALIDATION.values()), abs=0.0005)
    assert "so these scores are optimistic" in table


def test_the_text_holds_every_metric_at_its_size(evaluated):
    table = section(fill_card(evaluated), "Results").split("###")[0]
    assert cells(table, "score") == ["original size 384x288", "input size 256x192"]
    for key, score in evaluated["metrics"].items():
        name, size = key.rsplit("_", maxsplit=1)
        stated = re.fullmatch(SCORE, cells(table, ROWS[name])[("native", "network").index(size)])
        # Rounded, to one digit for pixels and to three or more for the others.
        precision = 0.051 if name == "hd95" else 0.00051
        assert [float(figure) for figure in stated.groups()] == pytest.approx(
            [score["value"], *score["ci95"]], abs=precision
        )
    assert cells(table, ROWS["mae"])[1] == "-"


def test_the_text_says_where_the_model_fails(evaluated):
    table = section(fill_card(evaluated), "Results")
    evaluation = evaluated["evaluation"]
    titles = {
        ("size", "small"): "small: polyp on under 4 % of the image",
        ("size", "medium"): "medium: 4 % to under 23 %",
        ("polyps", "one"): "one polyp",
        ("polyps", "two"): "two polyps",
        ("polyps", "three or more"): "three or more polyps",
    }
    for (kind, name), title in titles.items():
        images, *scores = cells(table, title)
        stratum = evaluation["strata"][kind][name]
        assert int(images) == stratum["images"]
        stated = [float(re.fullmatch(SCORE, score)[1]) for score in scores]
        assert stated == pytest.approx([score["value"] for score in stratum["metrics"].values()], abs=0.00051)
    assert cells(table, "large: 23 % or more") == ["0", "-", "-", "-"]
    assert cells(table, "polyps found")[0] == "48 of 69"
    assert cells(table, "marked regions that match a polyp")[0] == "48 of 77"
    assert cells(table, "marked regions that match none, per image")[0] == "29"
    assert cells(table, "images without polyp that get a false alarm")[0] == "5 of 7"
    assert cells(table, "share of the image that such an alarm covers, mean")[1] == "3.21 %"
    for name in ("sensitivity", "precision", "false_per_image"):
        assert f"{evaluation['lesions'][name]['value']:.3f} [" in table
    assert cells(table, "0.386275 (tuned)")[0].startswith(
        f"{evaluated['metrics']['dice_per_image_native']['value']:.3f}"
    )
    half = evaluation["threshold"]["at_half"]["iou_per_image_native"]
    assert cells(table, "0.5, every region counts")[1].startswith(f"{half['value']:.3f} [")
    iou = evaluated["metrics"]["iou_per_image_native"]
    ours = f"{iou['value']:.3f} [{iou['ci95'][0]:.3f}, {iou['ci95'][1]:.3f}]"
    comparison = [ours, "-", "+0.046 [-0.012, +0.099]", "0.00018", "61"]
    assert "compared with their-net, at original size 384x288" in table
    assert [row for row in table.splitlines() if "+0.046" in row and row.startswith("| IoU")] == [
        "| IoU, mean per image | " + " | ".join(comparison) + " |"
    ]


def test_the_text_says_what_is_marked_without_polyp(evaluated):
    text = section(fill_card(evaluated), "Frames without polyp")
    evaluation = evaluated["evaluation"]
    alone, chosen = evaluation["operating_points"]
    assert cells(text, "at original size") == [
        "threshold 0.386275 alone",
        "peak threshold 0.98765 (chosen on the validation split)",
    ]
    rows = {
        "polyps found: a region overlaps it": (
            alone["found_share"],
            chosen["found_share"],
            "59 of 67: ",
            "57 of 67: ",
        ),
        "frames with polyp with a region on a polyp": (alone["sensitivity"], chosen["sensitivity"], "", ""),
        "false regions per image": (alone["false_per_image"], chosen["false_per_image"], "", ""),
        "Dice of the split, mean per image": (alone["dice_per_image_native"], chosen["dice_per_image_native"], "", ""),
        "images without polyp that get an alarm": (
            *(alone["alarm_share"], chosen["alarm_share"]),
            *("417 of 500: ", "23 of 500: "),
        ),
    }
    for title, (first, second, *starts) in rows.items():
        for cell, score, start in zip(cells(text, title), (first, second), starts, strict=True):
            assert cell.startswith(start)
            assert float(re.fullmatch(SCORE, cell.removeprefix(start))[1]) == pytest.approx(
                score["value"], abs=0.00051
            )
    assert cells(text, "share of such an image that is marked, mean") == [
        "5.13 % [4.46 %, 5.8 %]",
        "0.283 % [0.246 %, 0.32 %]",
    ]
    negatives = evaluation["negatives"]
    title = "54 frames with polyp against 500 windows without polyp of 58 frames of the test split"
    assert cells(text, title) == ["value"]
    auc = cells(text, "area under the ROC curve of presence")[0]
    assert auc.startswith(f"{negatives['presence_auc']['value']:.3f} [")
    at_99 = cells(text, "sensitivity at a specificity of 99 % (regions above 0.9951 count)")[0]
    assert at_99.startswith(f"{negatives['at_specificity'][1]['sensitivity']['value']:.3f} [")
    last = negatives["froc"][2]
    assert [float(re.fullmatch(SCORE, cell)[1]) for cell in cells(text, "0.998")] == pytest.approx(
        [last["found_share"]["value"], last["false_per_image"]["value"]], abs=0.00051
    )
    words = re.sub(r"\s+", " ", text)
    for statement in (
        "components of the ground truth under 19 pixels are left out",
        "They are parts of frames that show a polyp",
        "a frame's windows are resampled together with it",
        "Frames of one patient are not independent",
    ):
        assert statement in words


@pytest.mark.parametrize(
    ("changes", "stated", "argument"),
    [
        ({"source": "model", "tuning": None}, "peak threshold 0.98765 (the model's own)", ""),
        (
            {"source": "flag", "tuning": None},
            "peak threshold 0.98765 (given for this run)",
            ", peak_threshold=0.98765",
        ),
        ({}, "peak threshold 0.98765 (chosen on the validation split)", ", peak_threshold=0.98765"),
        (
            {"values": [0.98, 0.991]},
            "peak thresholds 0.98 and 0.991 (chosen on the other half of the split)",
            ", peak_threshold=0.98765",
        ),
    ],
)
def test_the_text_says_where_the_peak_threshold_is_from(evaluated, changes, stated, argument):
    peak = evaluated["evaluation"]["peak"]
    peak |= changes
    evaluated["evaluation"]["operating_points"][1]["peaks"] = peak["values"]
    text = fill_card(evaluated)
    assert f"reaches a second threshold: {stated}." in section(text, "Evaluation protocol")
    assert f"threshold 0.386275 (tuned on the validation split); {stated}." in section(text, "Results")
    assert f"threshold=0.386275{argument})[0]" in text
    assert "do not depend on the peak threshold" in text
    optimistic = "The peak threshold was chosen on the scored split itself, so these scores are optimistic."
    assert (optimistic in section(text, "Results")) == ("very split" in stated)


def test_without_a_peak_threshold_the_card_names_none(evaluated):
    evaluated["evaluation"]["peak"] = {"values": [], "source": "none", "chosen_on_split": False, "tuning": None}
    evaluated["evaluation"]["operating_points"].pop()
    text = fill_card(evaluated)
    assert "threshold=0.386275)[0]" in text
    assert "a second threshold" not in text
    assert cells(section(text, "Frames without polyp"), "at original size") == ["threshold 0.386275 alone"]
    evaluated["evaluation"]["negatives"] = None
    assert section(fill_card(evaluated), "Frames without polyp").strip() == "Not measured."


def test_a_peak_threshold_without_images_without_polyp(evaluated):
    evaluated["evaluation"]["negatives"] = None
    for point in evaluated["evaluation"]["operating_points"]:
        point |= {"negatives": 0, "alarms": 0, "alarm_share": None, "marked_share": None}
    text = section(fill_card(evaluated), "Frames without polyp")
    assert cells(text, "polyps found: a region overlaps it")[1].startswith("57 of 67: ")
    assert "alarm |" not in text
    assert "were not scored: how often they get an alarm is not known" in text


def test_the_text_states_the_protocol(evaluated):
    text = re.sub(r"\s+", " ", section(fill_card(evaluated), "Evaluation protocol"))
    for statement in (
        *("384x288 pixels (width x height)", "at 256x192", "above 0.386275", "on the validation split"),
        *("*Mean per image*, the main score here", "*Pooled*", "256 thresholds", "PraNet"),
        *("is the image's diagonal", "costs the image's diagonal", "within 3 pixels", "IoU of at least 0.55"),
        *("under 4 % of the image", "23 % or more", "5,432 resamples, seed 17"),
    ):
        assert statement in text
    assert "optimistic" not in text
    assert "flips" not in text
    evaluated["evaluation"]["protocol"]["test_time_augmentation"] = True
    assert "mean over the image and its flips" in section(fill_card(evaluated), "Evaluation protocol")
    assert "; mean over the image and its flips." in results_tables(evaluated)


def test_scores_of_the_split_that_chose_the_checkpoint_are_called_optimistic(evaluated):
    evaluated["data"] |= {"name": "team/polyps", "split": "validation", "rows": {"validation": 99}}
    assert "also chose the checkpoint (step 300 of 350), so these scores are optimistic" in fill_card(evaluated)


def test_calibration_and_cost_are_stated(evaluated):
    text = fill_card(evaluated)
    calibration = section(text, "Calibration")
    assert len(re.findall(r"^\| \d\.\d{3} to", calibration, flags=re.MULTILINE)) == 14  # one bin has no pixel
    assert cells(calibration, "0.200 to 0.267") == ["12,348", "0.231", "0.214"]
    assert f"{evaluated['metrics']['ece_native']['value']:.4f} [" in calibration
    cost = section(text, "Environment and cost")
    assert cells(cost, "training")[0].startswith("cpu, float32, channels_last; 2 processes; Python 3.11.7")
    assert cells(cost, "evaluation")[0].startswith("cuda, bfloat16, channels_last; 1 process; Python 3.11.7")
    assert "12.3 s, the model 4.5 s of them" in cost


def test_the_scores_of_videos_are_stated(evaluated):
    text = section(fill_card(evaluated), "Videos")
    videos = evaluated["evaluation"]["videos"]
    title = "2 videos, 4.07 s at 29.97 frames per second, 1 of them without polyp"
    assert cells(text, title) == ["number", "value"]
    rows = {
        "share of the polyps that get an alert": ("2 of 3", "polyps_alerted"),
        "seconds until a polyp's first alert, median": ("", "median_delay_seconds"),
        "alerts per minute of videos without polyp": ("13", "alerts_per_minute_without_polyp"),
        "alerts per minute that lie on no polyp": ("17 of 19", "false_alerts_per_minute"),
        "flicker (lower is better)": ("", "flicker"),
    }
    for row, (count, name) in rows.items():
        stated = cells(text, row)
        assert stated[0] == count
        assert float(re.fullmatch(SCORE, stated[1])[1]) == pytest.approx(videos[name]["value"], abs=0.00051)
    for statement in ("gaps of up to 0.45 seconds", "followed for 0.75 seconds is an alert"):
        assert statement in text
    videos |= {"polyps_alerted": None, "median_delay_seconds": None}
    assert cells(section(fill_card(evaluated), "Videos"), "seconds until a polyp's first alert, median")[1] == "-"


def figures_of(score: dict) -> tuple[str, ...]:
    return tuple(f"{number:.3f}" for number in (score["value"], *score["ci95"]))


def test_the_scores_under_changes_are_stated(evaluated):
    robustness = evaluated["evaluation"]["robustness"]
    text = section(fill_card(evaluated), "Robustness")
    dice, alarms = text.split("Share of the images without polyp")
    for change in robustness["changes"]:
        *strengths, mean, loss = cells(dice, change["name"])
        expected = [f"{one['dice_per_image_native']['value']:.3f}" for one in change["strengths"]]
        assert strengths == expected
        assert re.fullmatch(SCORE, mean).groups() == figures_of(change["mean"]["dice_per_image_native"])
        assert loss == f"{100 * change['mean']['relative_loss']:.3g} %"
    *_, mean, loss = cells(dice, "mean over changes")
    assert re.fullmatch(SCORE, mean).groups() == figures_of(robustness["mean"]["dice_per_image_native"])
    assert loss == "7.89 %"
    first = robustness["changes"][0]
    header, *rest = [line for line in alarms.splitlines() if line.startswith("| noise |")]
    assert [cell.strip() for cell in header.strip("|").split("|")][1:6] == [
        f"{100 * one['alarm_share']['value']:.3g} %" for one in first["strengths"]
    ]
    assert rest == ["| noise | noise 1 | noise 5 |"]
    assert "Seed 19" in text


def test_the_scores_of_each_test_set_are_stated(evaluated):
    section_of_sets = evaluated["test_sets"]
    text = section(fill_card(evaluated), "Test sets")
    columns = ("dice_per_image_native", "dice_pooled_native", "dice_256_thresholds_minmax_native")
    columns += ("iou_per_image_native",)
    for one in section_of_sets["sets"]:
        images, *scores, difference, p_value = cells(text, one["name"])
        assert images == str(one["images"])
        found = [re.fullmatch(SCORE, score).groups() for score in scores]
        assert found == [figures_of(one["scores"][name]) for name in columns]
        assert (difference, p_value) == ("+0.046 [-0.012, +0.099]", "0.043")
    mean = cells(text, "mean over sets")[1:5]
    assert [re.fullmatch(SCORE, score).groups() for score in mean] == [
        figures_of(section_of_sets["mean"][name]) for name in columns
    ]
    assert cells(text, "Kvasir")[0] == "not scored"
    for fact in ("0.9765", "5,433 resamples", "seed 23", "their-net"):
        assert fact in text


def test_test_sets_alone_are_no_training_data(results):
    """Files of earlier versions have the training's data at the top level, where that of the sets is now."""
    results["training"].pop("data")
    assert "team/polyps" in section(fill_card(results), "Data and splits")
    results["test_sets"] = evaluated_results()["test_sets"]
    assert "team/polyps" not in section(fill_card(results), "Data and splits")


def test_near_duplicates_are_counted(evaluated):
    text = section(fill_card(evaluated), "Data and splits")
    assert "at most 6 bits apart): 2 between train and test." in text
    duplicate_free = evaluated["evaluation"]["audit"]["metrics"]["iou_per_image_native"]["value"]
    assert cells(text, "IoU, mean per image")[1].startswith(f"{duplicate_free:.3f} [")
    evaluated["evaluation"]["audit"] |= {"pairs": [], "left_out": 0, "metrics": {}}
    assert "No frame of the scored split has a near-duplicate in another split" in fill_card(evaluated)


def test_pictures_are_shown_once_with_a_caption(evaluated):
    text = fill_card(evaluated)
    for name in PICTURES:
        assert len(re.findall(rf"^!\[[^\]]{{10,}}\]\(figures/{name}\)\n\n\*[^*\n]+\*$", text, flags=re.MULTILINE)) == 1
    assert "not published" not in text
    evaluated["evaluation"]["figures"] = ["reliability.png"]
    text = fill_card(evaluated)
    assert re.findall(r"\(figures/(.*?)\)", text) == ["reliability.png"]
    assert "not published, because they show patients' frames" in section(text, "Failure pictures")


def test_every_section_is_there_and_no_figure_is_missing(variant):
    check_results(variant)
    text = fill_card(variant)
    assert re.findall(r"^## (.*)", text, flags=re.MULTILINE) == list(SECTIONS)
    for slip in ("None", "nan", "{{", "{%", "Undefined", "\n\n\n"):
        assert slip not in text, slip
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for slip in ("()", " ,", " ;", " ."):
        assert slip not in prose, slip
    assert "Not a medical device" in text.split("##")[0]
    for name in SECTIONS:
        assert section(text, name).strip()


def test_tables_have_as_many_cells_in_each_row(variant):
    for table in re.findall(r"(?:^\|.*\n)+", fill_card(variant) + results_tables(variant, compact=True) + "\n", re.M):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_what_was_not_measured_is_stated(results):
    text = fill_card(results)
    for name in ("Frames without polyp", "Videos", "Failure pictures", "Calibration"):
        assert section(text, name).strip() == "Not measured."
    assert "**Held-out scores:** not measured." in text
    assert "**Near-duplicates across splits.** Not measured." in text
    assert "Scores at original size, intervals and strata: not measured." in text
    nothing = fill_card(results | {"training": None})
    for name in ("Evaluation protocol", "Results", "Failure pictures", "Calibration"):
        assert section(nothing, name).strip() == "Not measured."
    assert section(nothing, "Training").strip() == "The training was not recorded."


def test_without_a_comparison_the_card_says_so(evaluated):
    evaluated["evaluation"] |= {"comparison": None, "audit": None}
    text = fill_card(evaluated)
    assert "### Against another model\n\nNot measured." in text
    assert "**Near-duplicates across splits.** Not measured." in text


def test_a_few_losses_of_a_long_training_are_listed(results):
    results["training"]["loss"] = [[float(epoch), 2 - epoch / 100] for epoch in range(1, 51)]
    losses = re.search(r"Mean training loss: (.*)\.", fill_card(results))[1].split(", ")
    assert losses[0] == "1.990 (epoch 1)"
    assert losses[-1] == "1.500 (epoch 50)"
    assert len(set(losses)) == len(losses) == 8
    results["training"]["loss"] = [[1.0, 0.5]]
    assert "Mean training loss: 0.500 (epoch 1)." in fill_card(results)
    results["training"]["loss"] = []
    assert "Mean training loss: not recorded." in fill_card(results)


def test_the_augmentation_is_the_one_that_is_stated(results):
    stated = augmentation.BaselineAugmentation()
    low, high = stated.factors
    assert (
        f"flips (p {stated.flip_probability} each), rotation of up to {stated.degrees} degrees, "
        f"brightness and contrast {low} to {high}"
    ) in fill_card(results)
    assert AUGMENTATIONS.keys() == set(augmentation.AUGMENTATIONS)
    del results["training"]["augmentation"]
    assert cells(fill_card(results), "augmentation") == ["not recorded"]


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_the_one_that_is_stated(name, results):
    results["model"]["loss"] = name
    assert f"| loss | {LOSSES[name].long_name} |" in fill_card(results)


def test_the_baselines_loss_is_named(results):
    results["model"]["loss"] = "bce_dice"
    assert "| loss | binary cross-entropy plus per-image Dice |" in fill_card(results)


@pytest.mark.parametrize(
    ("encoder", "weights", "stated"),
    [
        ("efficientnet_lite0", "imagenet", "the encoder's weights ImageNet's, from timm"),
        ("efficientnet_lite0", "a file, sha256:abc", "the encoder's weights those of a file, sha256:abc"),
        ("resnet34", "none", "random weights"),
    ],
)
def test_the_encoder_and_its_weights_are_stated(results, encoder, weights, stated):
    results["model"]["encoder"] = encoder
    results["training"] |= {"encoder_weights": weights, "encoder_learning_rate_scale": 0.3125}
    text = fill_card(results)
    assert f"with the encoder {encoder}" in text
    assert stated in text
    assert "encoder learning rate scale 0.3125" in text
    assert ("pip install timm" in text) == (encoder == "resnet34")  # the other is in the project's own code


@pytest.mark.parametrize("name", ["synthetic", "synthetic-clips"])
def test_local_and_synthetic_data_are_no_hub_data(results, name):
    for data in (results["data"], results["training"]["data"]):
        data |= {"name": name, "on_the_hub": False, "revision": None}
    text = fill_card(results)
    assert ModelCard(text).data.datasets is None
    assert {result.dataset_type for result in ModelCard(text).data.eval_results} == {"other"}
    assert "scores on them say nothing about real images" in text


def test_a_streamed_split_is_called_streamed(results):
    results["training"]["data"]["rows"]["train"] = None
    assert "rows: streamed train, 99 validation." in fill_card(results)


@pytest.mark.parametrize("write", [fill_card, results_tables])
def test_an_invalid_run_gets_no_card(evaluated, write):
    evaluated["invalid"] = "frame 17 has logits that are not finite."
    with pytest.raises(ValueError, match="marked invalid: frame 17 has logits"):
        write(evaluated)


def test_the_readme_opens_with_the_hubs_metadata():
    _, metadata, _ = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", maxsplit=2)
    data = yaml.safe_load(metadata)
    assert data["pipeline_tag"] == "image-segmentation"
    assert data["library_name"] == "transformers"
    assert data["license"] == "other"


@pytest.mark.parametrize("document", ["README.md", "model_card.md"])
def test_files_that_a_document_names_are_there(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    named = re.findall(r"`((?:[\w.]+/)*[\w.]+\.(?:py|md|yaml|json|safetensors|cff))`", text)
    for name in {*links, *named}:
        folders = ("ablation", "benchmarks", "data", "scoring", "tests")
        places = [ROOT / name, *(ROOT / folder / name for folder in folders)]
        assert any(place.exists() for place in places), name
