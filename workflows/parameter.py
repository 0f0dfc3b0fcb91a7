"""A template's typed parameters: what a value must be, how text from a command line becomes one, and how to say what is wrong.

Values are JSON values. Limits of ComfyUI's own are the outer ones: an integer fits 64 bits, a text 100,000 characters.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from handoff.decode import JsonValue, excerpt
from handoff.messages import Language, nearest

MAX_TEXT = 100_000  # characters
MAX_REFERENCE = 4 << 20  # characters of a picture's reference: a data: URL may fill a whole job file
MIN_INTEGER = -(2**63)
MAX_INTEGER = 2**64 - 1  # the highest seed of KSampler
DRAW = -1
"""The seed that asks for a drawn one."""


class Kind(StrEnum):
    """Public names: they stand as `type` in NAME.toml."""

    STRING = "string"
    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    ENUM = "enum"
    SEED = "seed"  # an integer; -1 or none is drawn
    IMAGE = "image"  # a reference to a picture, never a default
    MASK = "mask"  # the same, for an input that takes the picture's alpha or one channel
    MODEL = "model"  # a file name as ComfyUI lists it; none means the only one that ComfyUI has


Words = Mapping[Language, str]
"""One text in every language."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """An input of a node of the graph; `str()` gives it as NAME.toml writes it."""

    node: str
    input: str

    def __str__(self) -> str:
        return f"{self.node}.{self.input}"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """`minimum`, `maximum` and `step` belong to numbers, `choices` to an enum, `folder` (below ComfyUI's models/) to a model.

    The value that NAME.json holds is what its author last tried and never a default.
    """

    name: str
    kind: Kind
    to: tuple[Place, ...]
    default: JsonValue = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    step: int | float | None = None
    choices: tuple[str, ...] = ()
    folder: str = ""
    help: Words

    @property
    def required(self) -> bool:
        """A job must give it. A seed is drawn and a model is looked up where no default stands in NAME.toml."""
        return self.default is None and self.kind not in {Kind.SEED, Kind.MODEL}

    @property
    def lowest(self) -> int | float | None:
        """The least value taken, with ComfyUI's own limit where none is set."""
        if self.kind is Kind.SEED:
            return DRAW
        return MIN_INTEGER if self.minimum is None and self.kind is Kind.INT else self.minimum

    @property
    def highest(self) -> int | float | None:
        """The greatest value taken, with ComfyUI's own limit where none is set."""
        return MAX_INTEGER if self.maximum is None and self.kind in {Kind.INT, Kind.SEED} else self.maximum


def find_problem(parameter: Parameter, value: JsonValue) -> str | None:
    """What is wrong with this JSON value, as the end of the sentence "NAME is VALUE: …"; None where it fits."""
    match parameter.kind:
        case Kind.BOOL:
            return None if isinstance(value, bool) else "true or false is wanted"
        case Kind.INT | Kind.SEED | Kind.FLOAT:
            return _find_number_problem(parameter, value)
        case Kind.ENUM:
            return _find_choice_problem(parameter, value)
        case Kind.STRING:
            return _find_text_problem(value, MAX_TEXT)
        case Kind.MODEL:
            return "it is empty" if value == "" else _find_text_problem(value, MAX_TEXT)
        case Kind.IMAGE | Kind.MASK:
            return "it is empty" if value == "" else _find_text_problem(value, MAX_REFERENCE)


def _find_number_problem(parameter: Parameter, value: JsonValue) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "a whole number is wanted" if parameter.kind is not Kind.FLOAT else "a number is wanted"
    if abs(value) > 1.7e308 or math.isnan(value):  # float() of a longer integer raises, in ComfyUI too
        return "a finite number is wanted"
    if parameter.kind is not Kind.FLOAT and value != int(value):
        return "a whole number is wanted"
    if parameter.lowest is not None and value < parameter.lowest:
        return f"the least is {parameter.lowest}"
    if parameter.highest is not None and value > parameter.highest:
        return f"the most is {parameter.highest}"
    if parameter.step is not None and not _is_on_step(parameter, value):
        return f"it goes in steps of {parameter.step} from {parameter.minimum or 0}"
    return None


def _is_on_step(parameter: Parameter, value: float) -> bool:
    """Exact over the decimal digits as people write them, since 0.3 is no multiple of 0.1 in binary."""
    return (
        (Fraction(str(value)) - Fraction(str(parameter.minimum or 0))) / Fraction(str(parameter.step))
    ).denominator == 1


def _find_choice_problem(parameter: Parameter, value: JsonValue) -> str | None:
    if isinstance(value, str) and value in parameter.choices:
        return None
    alike = nearest(value[:80] if isinstance(value, str) else "", parameter.choices)
    return f"none of its {len(parameter.choices)} choices; the nearest: {alike}"


def _find_text_problem(value: JsonValue, limit: int) -> str | None:
    if not isinstance(value, str):
        return "a text is wanted"
    if len(value) > limit:
        return f"{len(value)} characters, the most is {limit}"
    if re.search("[\ud800-\udfff]", value):
        return "half a character (a lone UTF-16 surrogate) is in it"
    return None


_INTEGER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})")
_NUMBER = re.compile(r"[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,3})?")
_YES_NO = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def read_text(parameter: Parameter, text: str) -> JsonValue:
    """The value that a text from a command line or a form means; the text itself where it means none (`find_problem` says so).

    Integers may be hexadecimal (0xff8800); `yes`, `on` and 1 mean true, `no`, `off` and 0 false. Nothing is cut off a text.
    """
    word = text.strip()
    match parameter.kind:
        case Kind.INT | Kind.SEED if _INTEGER.fullmatch(word):
            return int(word, 16 if "x" in word.lower() else 10)
        case Kind.FLOAT if _NUMBER.fullmatch(word):
            return float(word)
        case Kind.BOOL:
            return _YES_NO.get(word.lower(), text)
        case _:
            return text


def show(parameter: Parameter, value: JsonValue) -> str:
    """The value for an error message: as JSON, at most 80 characters, and without what a picture's address may hide."""
    if parameter.kind in {Kind.IMAGE, Kind.MASK} and isinstance(value, str):
        return f"a text of {len(value)} characters"
    try:
        return excerpt(json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError):  # a date of TOML, an endless integer
        return f"a {type(value).__name__}"
