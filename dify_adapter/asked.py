"""How a request wants to be answered, by its query: `wait`, `format`, `lang`, `errors`. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from handoff.decode import excerpt
from handoff.failures import Failure, Reason
from handoff.messages import Language

LONGEST_WAIT_S = 110.0  # Dify's proxy gives up after 120
Format = Literal["json", "text", "markdown"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """`errors_as_200`: Dify hides the body of whatever is not 2xx, so there every error is an answer like any other."""

    wait_s: float = 0.0
    format: Format = "json"
    language: Language = "en"
    errors_as_200: bool = False
    failure: Failure | None = None
    """What is wrong with the question itself. The rest holds all the same, since the answer says so in that way."""


def read_asked(query: Mapping[str, str], language: Language) -> Asked:
    """`language` is the installation's. An empty value is none: Dify sends one for a variable without a value."""
    failure = None
    wait_s = 0.0
    try:
        wait_s = float(query.get("wait") or 0)
    except ValueError:
        wait_s = math.nan
    if not 0 <= wait_s <= math.inf:
        failure = _bad("wait", query["wait"], f"a number of seconds is wanted, at most {LONGEST_WAIT_S:.0f}")
        wait_s = 0.0
    format = query.get("format") or "json"
    if format not in ("json", "text", "markdown"):
        failure, format = _bad("format", format, "json, text or markdown is wanted"), "json"
    spoken = (query.get("lang") or language).lower().replace("_", "-").partition("-")[0]
    if spoken not in ("en", "zh"):
        failure, spoken = _bad("lang", spoken, "en or zh is wanted"), language
    return Asked(
        wait_s=min(wait_s, LONGEST_WAIT_S),
        format=format,  # type: ignore[arg-type] # compared above
        language=spoken,  # type: ignore[arg-type]
        errors_as_200=query.get("errors") == "200",
        failure=failure,
    )


def _bad(field: str, value: str, problem: str) -> Failure:
    return Failure(Reason.BAD_FIELD, field=field, problem=f"it is {excerpt(value, 40)}; {problem}")
