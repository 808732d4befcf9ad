"""Tables and text on the scores of videos, for the card and the terminal."""

from .markdown import interval, table, text_table
from .results import Evaluation, Score, Videos


def videos_text(evaluation: Evaluation) -> str:
    """What the videos are: "20 videos, 80 s at 25 frames per second, 10 of them without polyp"; empty without any."""
    videos = evaluation.get("videos")
    if not videos:
        return ""
    seconds = sum(one["seconds"] for one in videos["sequences"])
    at = f"{seconds:{',.0f' if seconds >= 100 else '.3g'}} s at {videos['frame_rate']:g} frames per second"
    count = len(videos["sequences"])
    return f"{count:,} video{'s' * (count != 1)}, {at}, {videos['without_polyp']:,} of them without polyp"


def videos_table(evaluation: Evaluation) -> str:
    """The scores of all videos together, each with its interval; empty if not measured."""
    videos = evaluation.get("videos")
    if not videos:
        return ""
    header = [videos_text(evaluation), "number", "value"]
    return table(header, ([title, number, interval(score)] for title, number, score in _rows(videos)))


def videos_as_text(evaluation: Evaluation) -> list[str]:
    """Lines for the terminal; none if not measured."""
    videos = evaluation.get("videos")
    if not videos:
        return []
    lines = [f"{videos_text(evaluation)}; a region that is followed for {videos['alert_seconds']:g} s is an alert:"]
    rows = ([title, interval(score), f"({number})" if number else ""] for title, number, score in _rows(videos))
    return [*lines, *text_table(rows)]


def _rows(videos: Videos) -> list[tuple[str, str, Score | None]]:
    """Title, counts and score."""
    without = sum(one["alerts"] for one in videos["sequences"] if not one["shows_polyp"])
    return [
        (
            "share of the polyps that get an alert",
            f"{videos['alerted']} of {videos['polyps']}",
            videos["polyps_alerted"],
        ),
        ("seconds until a polyp's first alert, median", "", videos["median_delay_seconds"]),
        ("alerts per minute of videos without polyp", str(without), videos["alerts_per_minute_without_polyp"]),
        (
            "alerts per minute that lie on no polyp",
            f"{videos['false_alerts']} of {videos['alerts']}",
            videos["false_alerts_per_minute"],
        ),
        ("flicker (lower is better)", "", videos["flicker"]),
    ]
