"""From the bytes of a file to batches of rows: encoding, line ends, delimiter, records.

The file is read twice. The first pass only decodes, at the speed of the disk, so that the encoding is known
for all of the file before the first cell is counted; the second parses, span by span.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import sys
from collections import Counter
from dataclasses import dataclass
from operator import length_hint
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

CHUNK = 1 << 15  # bytes a read; the cells of so many are still in the processor's cache when they are counted
NARROW, LARGE_CHUNK = 64, 1 << 20  # so many columns more are worth as much once more, up to this
LINE_LIMIT = 16 << 20  # characters of one line
CELL_LIMIT = 1 << 20  # characters of one cell
ROOMY = 1024
"""Characters of a line; in longer ones each cell is looked at for its length."""
PEEK = 1 << 16  # bytes the delimiter is judged by
DELIMITERS = (",", ";", "\t", "|")
REPLACEMENT = "\ufffd"
STRAY = 0.02
"""Undecodable bytes among those beyond ASCII: up to this share a file is damaged UTF-8, above it is none."""

MARKS = (("utf-8", codecs.BOM_UTF8), ("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE))
SIGNATURES = (
    (b"PK\x03\x04", "a ZIP archive (an Excel workbook?)"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"%PDF-", "a PDF document"),
    (b"PAR1", "a Parquet file"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
)


class RefusedError(Exception):
    """The file cannot be profiled; the message is one line for the user, `record` counts from 1."""

    def __init__(self, message: str, record: int = 0) -> None:
        """Say what is wrong, and in which record, where it is one."""
        super().__init__(message, record)
        self.message, self.record = message, record

    def __str__(self) -> str:
        """Return the line."""
        return f"record {self.record:,}: {self.message}" if self.record else self.message


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the file's bytes become text, and what was noticed on the way."""

    codec: str
    mark: int  # bytes of the byte order mark, 0 without
    replaced: int  # characters that could not be decoded
    line_ends: str  # lf, crlf, cr, mixed or none

    @property
    def name(self) -> str:
        """The name as people know it."""
        return {"utf-16-le": "utf-16", "utf-16-be": "utf-16"}.get(self.codec, self.codec)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some records of the file: as rows, or, where all are of one width, as columns."""

    rows: list[list[str]]
    columns: list[Sequence[str]]
    roomy: bool  # a cell may be longer than ROOMY


class Lines:
    """The lines of a text in pieces, as csv wants them; `left` tells where a piece ends."""

    def __init__(self, pieces: Iterator[str]) -> None:
        """Begin before the first piece."""
        self.pieces = pieces
        self.load("")

    def load(self, text: str) -> None:
        """Go on with a piece that was taken from `pieces`."""
        lines = list(io.StringIO(text, newline=""))
        self.longest = max(map(len, lines), default=0)
        self.here = iter(lines)

    def __iter__(self) -> Iterator[str]:
        """Yield one line after the other."""
        while True:
            here = self.here
            yield from here
            if self.here is here:  # nobody has loaded another piece in the meantime
                text = next(self.pieces, "")
                if not text:
                    return
                self.load(text)

    @property
    def left(self) -> int:
        """How many lines of the piece were not yet taken."""
        return length_hint(self.here)


@dataclass(frozen=True, slots=True)
class Source:
    """A file that is known to be text: `encoding` and `delimiter` are settled."""

    path: Path
    size_bytes: int
    encoding: Encoding
    delimiter: str


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file, from the beginning of a record to the end of a line; the last span has no end."""

    start: int
    stop: int = sys.maxsize


class Reading:
    """A span on its way to batches of rows; `records`, `bytes_read` and `end` hold when all have come."""

    def __init__(self, source: Source, span: Span, width: int = 0) -> None:
        """Begin; `width` is that of the header, where it is known."""
        self.source, self.span, self.width = source, span, width
        self.is_headed = span.start > source.encoding.mark  # the header is not to come any more
        self.records = 0
        self.bytes_read = 0
        self.over = 0  # bytes of the lines that were taken from behind the span

    @property
    def end(self) -> int:
        """Where the span's last record ends: its cells may hold line breaks and reach beyond the span."""
        return self.span.stop + self.over

    def batches(self) -> Iterator[Batch]:
        """Yield the records, a piece of the file at a time.

        Pieces without a quote, which are most, are split: twice as fast as csv, and already in columns.

        Raises:
            RefusedError: a cell, a line or a record is beyond all measure.
        """
        pieces = self._pieces()
        lines = Lines(pieces)
        csv.field_size_limit(CELL_LIMIT)
        reader = csv.reader(lines, delimiter=self.source.delimiter)
        rows: list[list[str]] = []
        try:
            while lines.left or not self._through:
                line = reader.line_num
                self._read_rows(reader, lines, rows)
                if not rows:
                    return
                self.records += len(rows)
                self.width = self.width or next((len(row) for row in rows if row), 0)
                self.is_headed = self.is_headed or any(rows)
                several_lines = reader.line_num - line != len(rows)
                yield Batch(rows, [], roomy=several_lines or lines.longest > ROOMY)
                rows = []
                if self.over:
                    self.over -= self._size("".join(lines.here))
                    return
                while not (lines.left or self._through) and (text := next(pieces, "")):
                    width = self.width if self.is_headed else 0
                    columns, longest = split_columns(text, self.source.delimiter, width)
                    if columns:
                        self.records += len(columns[0])
                        yield Batch([], columns, roomy=longest > ROOMY)
                    else:
                        lines.load(text)
        except csv.Error as error:
            raise RefusedError(_csv_fault(error), self.records + len(rows) + 1) from error

    @property
    def _through(self) -> bool:
        return self.bytes_read >= self.span.stop - self.span.start

    def _read_rows(self, reader: Iterator[list[str]], lines: Lines, rows: list[list[str]]) -> None:
        """Add to `rows` the records up to the end of a piece; the last one may reach into the next piece."""
        before = lines.left or math.inf
        for row in reader:
            rows.append(row)
            left = lines.left
            if not left or left > before:
                return
            before = left

    def _pieces(self) -> Iterator[str]:
        for text in whole_lines(self._decoded()):
            if self.bytes_read > self.span.stop - self.span.start:
                self.over += self._size(text)
            yield text

    def _decoded(self) -> Iterator[str]:
        source = self.source
        chunk = min(CHUNK * (1 + self.width // NARROW), LARGE_CHUNK)
        for text, count in decoded(source.path, source.encoding.codec, self.span, "replace", chunk):
            self.bytes_read += count
            yield text

    def _size(self, text: str) -> int:
        return len(text.encode(self.source.encoding.codec))


def split_columns(text: str, delimiter: str, width: int) -> tuple[list[Sequence[str]], int]:
    """Return the columns and the longest line of a plain piece: no quote, one width, one line end.

    Each line end becomes a cell of its own, and all is plain where these cells are where they should be.
    """
    plain: list[Sequence[str]] = []
    if "\r" in text:
        ends = text.count("\r\n")
        if not ends == text.count("\r") == text.count("\n"):
            return plain, 0
        text = text.replace("\r\n", "\n")
    blank = width == 1 and (text.startswith("\n") or "\n\n" in text)
    if '"' in text or blank or not width or not text.endswith("\n"):
        return plain, 0
    longest, number = longest_line(text), text.count("\n")
    cells = text.replace("\n", f"{delimiter}\n{delimiter}").split(delimiter)
    every = width + 1
    if longest > CELL_LIMIT or len(cells) != number * every + 1 or cells[width::every].count("\n") != number:
        return plain, 0
    cells.pop()
    return [cells[index::every] for index in range(width)], longest


def longest_line(text: str) -> int:
    """Return the length of the longest line; of lines of up to ROOMY nobody asks which is."""
    end = position = 0
    while position < len(text):
        end = text.rfind("\n", position, position + ROOMY + 1) + 1
        if not end:
            return max(map(len, text.split("\n")))
        position = end
    return min(ROOMY, len(text))


def open_source(path: Path, delimiter: str | None) -> Source:
    """Settle encoding and delimiter of the file.

    Raises:
        RefusedError: it is empty, or no text.
    """
    try:
        with path.open("rb") as file:
            head = file.read(PEEK)
            size_bytes = file.seek(0, io.SEEK_END)
    except OSError as error:
        message = f"the table cannot be read: {error.strerror}"
        raise RefusedError(message) from error
    if not head:
        message = "the file is empty (0 bytes): there is not even a header"
        raise RefusedError(message)
    for signature, what in SIGNATURES:
        if head.startswith(signature):
            message = f"this is not a CSV file: it is {what}"
            raise RefusedError(message)
    encoding = find_encoding(path, head)
    if delimiter is None:
        beginning = codecs.getincrementaldecoder(encoding.codec)("replace").decode(head[encoding.mark :])
        delimiter = find_delimiter(beginning, whole=len(head) == size_bytes)
    return Source(path, size_bytes, encoding, delimiter)


def find_encoding(path: Path, head: bytes) -> Encoding:
    """Find the encoding that fits the whole file: by its mark, else UTF-8, else Windows-1252, else Latin-1.

    Raises:
        RefusedError: there are NUL characters, so it is no text in any of them.
    """
    codec, mark = next(((name, len(bom)) for name, bom in MARKS if head.startswith(bom)), ("utf-8", 0))
    try:
        return Encoding(codec, mark, *survey(path, codec, mark, "strict"))
    except UnicodeDecodeError:
        replaced, line_ends = survey(path, codec, mark, "replace")
    if mark or replaced <= STRAY * beyond_ascii(path):
        return Encoding(codec, mark, replaced, line_ends)
    try:
        return Encoding("cp1252", 0, *survey(path, "cp1252", 0, "strict"))
    except UnicodeDecodeError:
        return Encoding("latin-1", 0, *survey(path, "latin-1", 0, "strict"))


def survey(path: Path, codec: str, mark: int, errors: str) -> tuple[int, str]:
    """Decode the whole file; count what was replaced and tell how its lines end."""
    replaced = position = 0
    crlf = lf = cr = False
    held = ""  # a CR at the end of a piece, which may be half of a line end
    for text, count in decoded(path, codec, Span(mark), errors):
        if "\0" in text:
            near = position + mark + len(text[: text.index("\0")].encode(codec, "replace"))
            message = f"this is not text: NUL near byte {near:,} (UTF-16 needs a byte order mark)"
            raise RefusedError(message)
        ends = held + text if held else text
        held = "\r" if ends.endswith("\r") else ""
        both = ends.count("\r\n") if "\r" in ends else 0
        crlf = crlf or both > 0
        lf = lf or (ends.count("\n") > both if both else "\n" in ends)
        cr = cr or ("\r" in ends and ends.count("\r") > both + len(held))
        replaced += text.count(REPLACEMENT) if errors == "replace" else 0
        position += count
    kinds = [name for name, found in (("lf", lf), ("crlf", crlf), ("cr", cr or held)) if found]
    return replaced, "mixed" if len(kinds) > 1 else (kinds or ["none"])[0]


def beyond_ascii(path: Path) -> int:
    """Count the bytes above 127."""
    ascii_bytes = bytes(range(128))
    with path.open("rb") as file:
        return sum(len(chunk.translate(None, ascii_bytes)) for chunk in iter(lambda: file.read(CHUNK), b""))


def decoded(
    path: Path, codec: str, span: Span, errors: str, chunk_size: int = CHUNK
) -> Iterator[tuple[str, int]]:
    """Yield the text of the file from the span's start on, and of how many bytes each piece came.

    A piece ends where the span does; the text behind it follows all the same.
    """
    decoder = codecs.getincrementaldecoder(codec)(errors)
    left = span.stop - span.start
    with path.open("rb") as file:
        file.seek(span.start)
        while chunk := file.read(min(chunk_size, left) or chunk_size):
            left = max(0, left - len(chunk))
            yield decoder.decode(chunk), len(chunk)
        yield decoder.decode(b"", final=True), 0


def whole_lines(pieces: Iterable[str]) -> Iterator[str]:
    """Cut the text anew, so that every piece ends where a line ends (the last one may not).

    Raises:
        RefusedError: a line is longer than LINE_LIMIT.
    """
    rest = ""
    for piece in pieces:
        text = rest + piece
        end = text.rfind("\n") + 1 or text.rfind("\r", 0, len(text) - 1) + 1
        if end:
            yield text[:end]
        rest = text[end:]
        if len(rest) > LINE_LIMIT:
            message = f"a line is longer than {LINE_LIMIT:,} characters: is this a CSV file?"
            raise RefusedError(message)
    if rest:
        yield rest


def find_delimiter(beginning: str, *, whole: bool) -> str:
    """Choose the delimiter that gives most records the same number of cells; a comma if none gives two."""
    lines = list(io.StringIO(beginning, newline=""))
    if not whole and len(lines) > 1:
        lines.pop()  # cut somewhere in the middle
    best, best_score = DELIMITERS[0], (0.0, 0)
    for delimiter in DELIMITERS:
        try:
            widths = Counter(len(row) for row in csv.reader(lines, delimiter=delimiter) if row)
        except csv.Error:
            continue
        width, records = max(widths.items(), key=lambda item: (item[1], item[0]), default=(0, 0))
        score = (records / max(1, sum(widths.values())), width)
        if width > 1 and score > best_score:
            best, best_score = delimiter, score
    return best


def _csv_fault(error: csv.Error) -> str:
    if "field limit" in str(error):
        return f"a cell is longer than {CELL_LIMIT:,} characters; is a quote never closed?"
    return str(error)
