"""Many visitors at once: every request is answered, each with its own image's mask."""

import io
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason='the page needs pip install -e ".[app]"')

from conftest import save_tiny_model
from downloads import download_of
from page_visitors import Visitor, running_page
from unet_kvasir_seg.data.synthetic import generate

pytestmark = pytest.mark.slow

VISITORS, REQUESTS = 20, 10  # requests of each visitor


def test_twenty_visitors_lose_nothing_and_see_their_own_images(tmp_path, add_row, capsys):
    frame = next(generate(1, (288, 384), seed=0))["image"]

    def ask(page: str, number: int) -> list[tuple[float, bool]]:
        visitor, found = Visitor(page), []
        for request in range(REQUESTS):
            width = 200 + REQUESTS * number + request  # no two requests are of the same width
            buffer = io.BytesIO()
            frame.resize((width, 288)).save(buffer, "PNG")
            started = time.perf_counter()
            mask = download_of(visitor.segment(buffer.getvalue()), "Download mask (PNG)")
            found.append((time.perf_counter() - started, Image.open(io.BytesIO(mask)).size == (width, 288)))
        return found

    checkpoint = save_tiny_model(tmp_path / "checkpoint", seed=0)
    with running_page(checkpoint, tmp_path / "page") as page, ThreadPoolExecutor(VISITORS) as pool:
        answers = [
            found for each in pool.map(lambda number: ask(page.address, number), range(VISITORS)) for found in each
        ]
    seconds, own = zip(*answers, strict=True)
    wrong = own.count(False)
    with capsys.disabled():
        print(
            f"\nseconds of {len(answers)} requests: median {np.median(seconds):.1f}, "
            f"95 % under {np.quantile(seconds, 0.95):.1f}, longest {max(seconds):.1f}"
        )
    add_row(f"{len(answers)} requests of {VISITORS} visitors of the page at once", len(answers), wrong, 0)
    assert (len(answers), wrong) == (VISITORS * REQUESTS, 0)
