"""A process beside the first one: told on stdin which parts to read, it hands them over on stdout."""

from __future__ import annotations

import pickle
import sys

from table import read_part

task, spans = pickle.load(sys.stdin.buffer)  # noqa: S301 - the first process wrote it
for span in spans:
    pickle.dump(read_part(task, span), sys.stdout.buffer, protocol=pickle.HIGHEST_PROTOCOL)
    sys.stdout.buffer.flush()
