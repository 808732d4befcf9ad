"""Reads the files that the page of app.py offers for download."""

import base64
import re


def download_of(html: str, label: str) -> bytes:
    """Content of the file behind the only link with this label."""
    (content,) = re.findall(rf'href="data:[^;]+;base64,([^"]+)"[^>]*>{re.escape(label)}<', html)
    return base64.b64decode(content)
