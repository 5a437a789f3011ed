"""The conversation as a provider takes it: attached files become parts that a model can read."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

from failures import Code, Failure

# Bytes of all attached files together. Source: a request to Anthropic may have 32 MB, one to OpenAI 50 MB
# (their API references, 2026-11), and base64 makes 4 bytes of 3.
MAX_BYTES = 20 * 1024 * 1024
AUDIO = {"audio/mpeg": "mp3", "audio/wav": "wav"}  # what the chat API of OpenAI has a name for
TEXTS = {
    *("application/json", "application/jsonl", "application/rtf", "application/toml", "application/xml"),
    *("application/x-ipynb+json", "application/x-ndjson", "application/x-sh", "application/yaml"),
    "image/svg+xml",  # no model takes it as a picture
}


def conversation(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages of the inputs with a role each, and every part in the form of OpenAI's chat API.

    Raises:
        Failure: An attached file is none that a model could read.
    """
    room = MAX_BYTES

    def part_of(part: str | dict[str, Any]) -> dict[str, Any]:
        nonlocal room
        if isinstance(part, str):
            return {"type": "text", "text": part}
        if "$artifact" not in part:
            return part
        file = Path(os.environ.get("THEORY_ROOT", "") + part["$artifact"])
        room -= file.stat().st_size
        if room < 0:
            raise Failure(
                Code.ATTACHMENT,
                f"the attached files have more than {MAX_BYTES >> 20} MiB together",
                "attach less, or smaller images",
            )
        return _readable(file.name, part["mime"], file.read_bytes())

    return [
        {
            "role": message.get("role", "user"),
            "content": content if isinstance(content, str) else [part_of(part) for part in content],
        }
        for message in messages
        for content in [message["content"]]
    ]


def _readable(name: str, mime: str, data: bytes) -> dict[str, Any]:
    if mime in TEXTS or mime.startswith("text/"):
        try:
            return {"type": "text", "text": f'<file name="{name}">\n{data.decode("utf-8-sig")}\n</file>'}
        except UnicodeDecodeError:
            raise Failure(
                Code.ATTACHMENT, f"the attached file {name} ({mime}) is not UTF-8", "save it as UTF-8"
            ) from None
    encoded = base64.b64encode(data).decode()
    if mime.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{encoded}"}}
    if mime == "application/pdf":
        return {"type": "file", "file": {"filename": name, "file_data": f"data:{mime};base64,{encoded}"}}
    if mime in AUDIO:
        return {"type": "input_audio", "input_audio": {"data": encoded, "format": AUDIO[mime]}}
    raise Failure(
        Code.ATTACHMENT,
        f"the attached file {name} is {mime}, which no model reads",
        "attach text, an image, a PDF, or audio as mp3 or wav",
    )
