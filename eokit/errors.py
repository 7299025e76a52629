"""Every error that eokit raises on purpose, and the exit code each one becomes.

    EokitError                 1  something failed
    ├── UsageError             2  an option or a configuration value is wrong
    │   └── ArgumentError      2  an argument of a public function is wrong (also a ValueError)
    ├── DataError              3  data are missing, damaged or not what they claim to be
    │   └── TargetError        3  a place cannot be written: the disk is full or read-only
    ├── WeightsError           4  weights do not belong to the model, or are damaged
    └── SetupError             5  the machine lacks something: a library, a device, memory
    Interrupted              130  stopped by a signal, with the work so far saved

A message is one line: what is wrong, where, what was expected, what to do. Raise where the fact is known.
"""

from __future__ import annotations


class EokitError(Exception):
    """The base of every error raised on purpose; its message is one line meant for a person.

    Several things found wrong at once are several messages: `DataError(first, second)`, one line each.
    """

    exit_code = 1

    @property
    def lines(self) -> tuple[str, ...]:
        """Every message, each on one line."""
        return tuple(" ".join(str(message).split()) for message in self.args)

    def __str__(self) -> str:
        return "; ".join(self.lines)


class UsageError(EokitError):
    """An option, a path or a configuration value that cannot work."""

    exit_code = 2


class ArgumentError(UsageError, ValueError):
    """An argument of a public function with the wrong shape, dtype, device or value; names the argument."""


class DataError(EokitError):
    """Data that are missing, damaged, or not what they claim to be; names the file and the field."""

    exit_code = 3


class TargetError(DataError):
    """A place that cannot be written, for want of room or permission; what was there before is still there."""


class WeightsError(EokitError):
    """Weights or preprocessing that do not belong to the model or the data; names the differing keys."""

    exit_code = 4


class SetupError(EokitError):
    """Something the machine lacks: an optional library, a device, memory; says how to get it."""

    exit_code = 5


class Interrupted(EokitError):
    """A run stopped by SIGINT or SIGTERM after it saved its state; says how to continue."""

    exit_code = 130
