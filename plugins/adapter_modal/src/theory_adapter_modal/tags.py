"""What tells our costs apart in Modal's own reports."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from theory import cid_of

if TYPE_CHECKING:
    from theory import Job, Ref

_LENGTH, _FOREIGN = 63, re.compile(r"[^a-zA-Z0-9._-]")  # of a tag's value (client 1.6, ``check_tag_dict``)
_DIGITS = 8  # of the digest of a value that no tag could have


def tags_of(job: Job) -> dict[str, str]:
    """The tags of a job's sandbox: its execution, its ref and the plan that pays."""
    tags = {"theory.execution": job.execution_id, "theory.ref": tag_of_ref(job.processor.ref)}
    return {**tags, "theory.plan": _value(job.plan)} if job.plan else tags


def tag_of_ref(ref: Ref) -> str:
    """A ref, as a tag spells it: ``llm.litellm.1``."""
    return _value(f"{ref.namespace}.{ref.name}.{ref.version}")


def _value(text: str) -> str:
    """A text as a tag's value; where it has to be changed, with a digest, so that no two are alike.

    >>> _value("team-a"), _value("Team \u00e4")
    ('team-a', 'Team---18518279')
    """
    plain = _FOREIGN.sub("-", text)
    if plain == text and len(text) <= _LENGTH:
        return text
    digest = cid_of(text.encode()).removeprefix("b3:")[:_DIGITS]
    return f"{plain[: _LENGTH - _DIGITS - 1]}-{digest}"
