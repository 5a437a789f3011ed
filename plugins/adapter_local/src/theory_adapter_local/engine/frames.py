"""What a container writes: two streams in one, as frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from theory_adapter_local.engine.connection import Lost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theory_adapter_local.engine.http1 import Answer

_STREAMS: dict[int, Literal["stdout", "stderr"]] = {1: "stdout", 2: "stderr", 3: "stderr"}  # 3: its own words
_HEAD = 8  # bytes: stream, 0, 0, 0, length. Source: ContainerAttach in the Engine API
_PORTION = 64 << 10  # bytes; a frame of an engine has 32 KiB at most


class Attached:
    """What a container writes, as it comes.

    Args:
        answer: A stream of frames, on a connection that is not used again.
    """

    def __init__(self, answer: Answer) -> None:
        answer.allow(None)
        self._answer = answer
        self._begun = self._closed = False

    def frames(self) -> Iterator[tuple[Literal["stdout", "stderr"], bytes]]:
        """Each portion with its stream: up to 64 KiB, cut anywhere.

        It ends with the container, when somebody calls ``close``, and when the engine ends in good order.

        Raises:
            Lost: It broke off in the middle.
        """
        self._begun = True
        read = self._answer.read_exactly
        try:
            while head := read(_HEAD):
                stream = _STREAMS.get(head[0])
                if len(head) < _HEAD or head[1:4] != bytes(3) or stream is None:
                    raise Lost(f"the engine sent {head!r} where a frame begins")  # noqa: TRY301 - one way out
                left = int.from_bytes(head[4:], "big")
                while left:
                    portion = read(min(left, _PORTION))
                    if not portion:
                        raise Lost("the output broke off in the middle of a frame")  # noqa: TRY301 - the same
                    left -= len(portion)
                    yield stream, portion
        except Lost:
            if not self._closed:
                raise
        finally:
            self._answer.close()

    def close(self) -> None:
        """End it, from any thread: ``frames`` ends at once."""
        self._closed = True
        self._answer.end()
        if not self._begun:
            self._answer.close()

    def __enter__(self) -> Attached:  # noqa: PYI034 - Self is younger than Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
