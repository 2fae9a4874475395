"""One label per spot, cleaned in one place: what is missing, what is no label, which labels are the same.

Annotations reach the package as columns of ``obs``, as tables and as drawings, and pass through here, so that a word
that means missing is missing everywhere and no two labels become one without a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

# what programs write for a missing value; text files have no other way
BLANKS = ("nan", "na", "n/a", "<na>", "#n/a", "none", "null", "nat")
# what people write
WORDS = (
    "missing",
    "unassigned",
    "not assigned",
    "unannotated",
    "not annotated",
    "unclassified",
    "undefined",
    "undetermined",
    "unknown",
    "unlabelled",
    "unlabeled",
)
MISSING: tuple[str, ...] = (*BLANKS, *WORDS)

LONGEST = 200  # bytes of a label; names of slots and files hold 255
_MANY = 10  # labels up to here are never taken for names or measurements that were written as text
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Labels:
    """One label per spot.

    Attributes
    ----------
    values
        Categorical of text, NaN where a spot has no label.
    taken
        Words that were taken as missing, and how often.
    remarks
        What a person should know about the labels that are left.
    """

    values: pd.Categorical
    taken: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Labels that occur, in the order of the categories."""
        return list(self.values.categories)

    @property
    def codes(self) -> np.ndarray:
        """Position in ``names`` of the label of each spot, -1 without."""
        return np.asarray(self.values.codes)

    def said(self) -> list[str]:
        """Everything a person should know, the words taken as missing first."""
        return ([taken_as_missing(self.taken)] if self.taken else []) + list(self.remarks)


def clean_labels(
    column: Any,
    *,
    missing: Iterable[str] | str | None = None,
    keep: Collection[str] = (),
    where: str = "The column",
    names_allowed: bool = False,
) -> Labels:
    """One label per spot as text, or a `ValueError` that says why this is none.

    Whole numbers with gaps are integers, whatever pandas made of them. Words in ``missing`` (by default `MISSING`) are
    no labels but for those in ``keep``; no label at all (`None`, NaN, an empty text) is always missing. Nearly as many
    labels as spots are refused, unless ``names_allowed``. Categories are in the order of the categorical that was
    given, else sorted, numbers as numbers. Blanks around a label do not count: ``"L1 "`` is ``"L1"``, which a remark
    says.

    Examples
    --------
    >>> made = clean_labels(pd.Series(["L1", "nan", "L2/3", " L1"]))
    >>> made.values.tolist(), made.taken
    (['L1', nan, 'L2/3', 'L1'], {'nan': 1})
    >>> clean_labels(pd.Series([2.0, np.nan, 10.0])).names
    ['2', '10']
    """
    codes, raw, in_order = _distinct(column, where)
    used = np.bincount(codes[codes >= 0], minlength=len(raw))
    words = missing_words(missing)
    kept = {tidy(k) for k in keep}
    texts: list[str | None] = []
    taken: dict[str, int] = {}
    for value, n in zip(raw, used.tolist(), strict=True):
        text = label_text(value)
        if n and text not in kept and (text == "" or fold(text) in words):
            taken[text] = taken.get(text, 0) + n
        texts.append(text if n and text not in taken else None)
    _samelabel_text(raw, texts, where)
    found = [(value, text) for value, text in zip(raw, texts, strict=True) if text is not None]
    if not in_order:
        found.sort(key=lambda pair: _rank(pair[0]))
    names = list(dict.fromkeys(text for _, text in found))
    at = {name: i for i, name in enumerate(names)}
    lookup = np.array([-1 if text is None else at[text] for text in texts] + [-1], dtype=np.int64)
    new = lookup[codes]
    for name in names:
        check_name(name, where)
    known = int((new >= 0).sum())
    if not names_allowed and len(names) > _MANY and len(names) > known / 2:
        raise ValueError(
            f"{where} has {len(names)} labels on {known} spots; it looks like names or measurements, not layers."
        )
    if looks_measured(names):
        raise ValueError(_measured(where))
    remarks = [*_joined(raw, texts), *_alike(names)]
    return Labels(pd.Categorical.from_codes(new, names), taken, tuple(remarks))


def is_boolean(column: pd.Series) -> bool:
    """Whether a column says yes or no: booleans, with gaps or without."""
    kind = column.dtype
    if isinstance(kind, pd.BooleanDtype) or kind == np.dtype(bool):
        return True
    if not pd.api.types.is_object_dtype(kind):
        return False
    known = column.dropna()
    return len(known) > 0 and all(isinstance(v, bool | np.bool_) for v in known)


def missing_words(missing: Iterable[str] | str | None = None) -> frozenset[str]:
    """The words that mean missing as they are compared: `MISSING`, or those given in its place.

    Examples
    --------
    >>> "unknown" in missing_words(), missing_words("Off_Tissue"), "unknown" in missing_words([])
    (True, frozenset({'off tissue'}), False)
    """
    given = MISSING if missing is None else [missing] if isinstance(missing, str) else list(missing)
    for word in given:
        if not isinstance(word, str):
            raise ValueError(f"missing= takes words, not {word!r}; true missing values are missing as they are.")
    return frozenset(fold(word) for word in given) | {""}


def tidy(text: Any) -> str:
    """A label without what nobody sees: blanks and marks around it, carriage returns in it."""
    text = str(text).replace("\r\n", "\n").replace("\r", "\n")
    before = None
    while before != text:
        before, text = text, text.strip().strip(_INVISIBLE)
    return text


def fold(text: str) -> str:
    """As words are compared: without case, brackets, underscores and repeated blanks.

    Examples
    --------
    >>> fold(" <NA>"), fold("Not_assigned"), fold("N/A")
    ('na', 'not assigned', 'n/a')
    """
    text = unicodedata.normalize("NFKC", tidy(text)).casefold().replace("_", " ")
    return " ".join(text.strip("<>[](){}\"' ").split())


def taken_as_missing(taken: dict[str, int], things: str = "spots") -> str:
    """How many spots have a word for a label that means missing."""
    n = sum(taken.values())
    most = sorted(taken.items(), key=lambda item: (-item[1], item[0]))
    words = ", ".join(f"{word!r} {count}" for word, count in most[:5]) + (", ..." if len(most) > 5 else "")
    return f"{n} {things} have a label that means missing ({words}) and count as unlabelled; missing= names other words"


def check_name(name: str, where: str) -> None:
    """Raise where a name cannot be kept: empty, too long, or with characters that no file holds."""
    if not tidy(name):
        raise ValueError(f"{where}: a name is empty; give it one.")
    bad = next((c for c in name if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n"), None)
    if bad is not None:
        raise ValueError(
            f"{where}: label {name!r} holds the control character {ord(bad):#x}, which no result can keep; rename it."
        )
    if len(name.encode()) > LONGEST:
        raise ValueError(
            f"{where}: label {name[:40]!r}... is {len(name)} characters long; a label is a name of {LONGEST} at most."
        )


def looks_measured(names: Iterable[str]) -> bool:
    """Whether labels that came as text read as measurements: numbers throughout, many, and not all of them whole.

    Examples
    --------
    >>> looks_measured(["1.1", "1.2"]), looks_measured([f"{i / 7:.3f}" for i in range(20)])
    (False, True)
    """
    names = list(names)
    return len(names) > _MANY and all(map(is_number, names)) and any(float(n) % 1 != 0 for n in names)


def is_number(text: str) -> bool:
    """Whether a text reads as one finite number."""
    return _NUMBER.fullmatch(text) is not None


def _measured(where: str) -> str:
    return (
        f"{where} holds measurements, not labels. Name a column of layers or regions, or cut it into classes: "
        "pd.cut(values, 3).astype(str)."
    )


def _distinct(column: Any, where: str, *, whole: bool = True) -> tuple[np.ndarray, list[Any], bool]:
    """Code of each spot (-1: missing), distinct values, and whether these have an order that is to be kept."""
    series = column if isinstance(column, pd.Series) else pd.Series(column)
    if isinstance(series.dtype, pd.CategoricalDtype):
        # made on purpose: numbers between are as good as names here
        codes, raw, _ = _distinct(pd.Series(list(series.cat.categories), dtype=object), where, whole=False)
        return np.append(codes, -1)[np.asarray(series.cat.codes)], raw, True
    kind = series.dtype
    if pd.api.types.is_datetime64_any_dtype(kind) or pd.api.types.is_timedelta64_dtype(kind):
        raise ValueError(f"{where} holds dates, not labels; name a column of layers or regions.")
    if pd.api.types.is_complex_dtype(kind):
        raise ValueError(_measured(where))
    if pd.api.types.is_float_dtype(kind):
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
        known = values[~np.isnan(values)]
        if np.isinf(known).any() or (known != np.rint(known)).any():
            raise ValueError(_measured(where))
    if not pd.api.types.is_object_dtype(kind):
        codes, unique = pd.factorize(series)
        return codes, list(unique), False
    # 1 and True are equal to pandas, and no text is: type goes first
    at: dict[tuple[str, Any], int] = {}
    found = np.full(len(series), -1, dtype=np.int64)
    absent = pd.isna(series).to_numpy()
    for i, value in enumerate(series.to_numpy()):
        if not absent[i]:
            try:
                found[i] = at.setdefault((_type(value), value), len(at))
            except TypeError:
                raise ValueError(f"{where}: {value!r} is no label, but a {type(value).__name__}.") from None
    raw = [value for _, value in at]
    numbers = [float(v) for kind_, v in at if kind_ == "number"]
    if whole and numbers and len(numbers) == len(raw) and any(v % 1 != 0 for v in numbers):
        raise ValueError(_measured(where))
    return found, raw, False


def _type(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "truth value"
    if isinstance(value, int | float | np.integer | np.floating):
        return "number"
    return "text" if isinstance(value, str) else type(value).__name__


def label_text(value: Any) -> str:
    """A label as text: whole numbers without a point, text without blanks around it."""
    if isinstance(value, float | np.floating):
        return str(int(value)) if float(value).is_integer() else str(float(value))
    if isinstance(value, bytes):
        return tidy(value.decode("utf-8", "replace"))
    return tidy(value)


def _rank(value: Any) -> tuple[int, float, str]:
    """Numbers as numbers, then text."""
    return (0, float(value), "") if _type(value) == "number" else (1, 0.0, label_text(value))


def _samelabel_text(raw: list[Any], texts: list[str | None], where: str) -> None:
    """Raise where values of different type read the same: 1 and "1"."""
    first: dict[str, Any] = {}
    for value, text in zip(raw, texts, strict=True):
        if text is not None and _type(first.setdefault(text, value)) != _type(value):
            raise ValueError(
                f"{where} holds the {_type(first[text])} {first[text]!r} and the {_type(value)} {value!r}, which read "
                "the same. Make them one by .astype(str), or rename one."
            )


def _joined(raw: list[Any], texts: list[str | None]) -> list[str]:
    """Remarks on labels that differed in blanks around them only."""
    spellings: dict[str, list[str]] = {}
    for value, text in zip(raw, texts, strict=True):
        if text is not None:
            spellings.setdefault(text, []).append(value if isinstance(value, str) else text)
    several = [f"{' and '.join(map(repr, v))} as {k!r}" for k, v in spellings.items() if len(v) > 1]
    return [f"labels that differ in blanks around them only are taken as one: {'; '.join(several)}"] if several else []


def _alike(names: list[str]) -> list[str]:
    """Remarks on labels that are kept apart but may be meant as one."""
    groups: dict[str, list[str]] = {}
    for name in names:
        folded = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        if is_number(folded) and len(folded) < 16:
            folded = f"{float(folded):.12g}"
        groups.setdefault(folded, []).append(name)
    several = [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
    return [f"labels that differ little are kept apart: {'; '.join(several)}"] if several else []
