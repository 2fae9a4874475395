"""What a user did wrong, in one line; third-party chatter kept away from the terminal."""

from __future__ import annotations

import re
import sys
import warnings

PROGRAM = "st-concepts"


class UsageError(Exception):
    """Input that cannot be used; the message says what to do instead."""


# what our own checks raise; anything else is a bug and keeps its traceback
EXPECTED = (UsageError, ValueError, KeyError, OSError)


def one_line(error: BaseException) -> str:
    """The message without quotes, line breaks and repeated blanks."""
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])
    elif isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}."
    else:
        text = str(error)
    return _OPTION.sub(_as_option, " ".join(text.split())) or type(error).__name__


# messages are written for Python; "pass layer='counts'" is "pass --layer counts" here
_OPTION = re.compile(
    r"(?<![\w.\[-])(layer|batch_key|table|kind|bin_size|scale|n_latent|null|max_epochs|column|missing|estimator)=(?:'([^']*)'|([\w.]*))"
)


def _as_option(match: re.Match[str]) -> str:
    name, quoted, bare = match.groups()
    return f"--{name.replace('_', '-')} {quoted or bare}".rstrip()


def say(text: str) -> None:
    """A line on stdout, at once."""
    print(text, flush=True)


def complain(kind: str, text: str) -> None:
    """One line on stderr."""
    print(f"{PROGRAM}: {kind}: {text}", file=sys.stderr, flush=True)


def quiet_warnings() -> None:
    """Our warnings as one line on stderr; those that users cannot act on not at all."""
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, SyntaxWarning, RuntimeWarning):
        warnings.filterwarnings("ignore", category=category)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(?!st_concepts)")

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        complain("warning", _OPTION.sub(_as_option, " ".join(str(message).split())))

    warnings.showwarning = show
