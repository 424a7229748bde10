"""The errors a user can meet, and the exit code of each.

A message says what went wrong, where, what was expected and what to do about it. Two kinds exist: a *run* error
stops the command (the classes below); a *record* error is a line of `quarantine.jsonl` (`quarantine.py`) and the
run goes on.
"""


class AmmaError(Exception):
    """Base of all errors that are shown to a user as one line.

    `code` is stable and greppable (`E_CORRUPT`); `exit_code` is what the command ends with.
    """

    code = "E_AMMA"
    exit_code = 1

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class UsageError(AmmaError, ValueError):
    """Options that contradict each other or name something that does not exist."""

    code = "E_USAGE"
    exit_code = 2


class ConfigError(UsageError):
    """A configuration with unknown keys or values out of range; every fault is listed."""

    code = "E_CONFIG"


class InputError(AmmaError, ValueError):
    """An input that makes the whole run impossible (a broken file, an empty table)."""

    code = "E_INPUT"


class WeightsError(AmmaError):
    """Encoder weights that are missing, damaged or of another architecture."""

    code = "E_WEIGHTS"


class StoreError(AmmaError):
    """A feature store that cannot be used as asked (unsealed, of another version, in use)."""

    code = "E_STORE"


class CorruptStoreError(StoreError):
    """A file of a store is not what its ledger says; the message names the file and the proteins hit."""

    code = "E_CORRUPT"


class FingerprintError(StoreError):
    """The store was written with other settings; the message names each field that differs."""

    code = "E_FINGERPRINT"


class CheckpointError(AmmaError):
    """A checkpoint that is missing, damaged or of another version."""

    code = "E_CHECKPOINT"


class LossError(AmmaError):
    """A loss or gradient that is not finite; training stops in that step."""

    code = "E_LOSS"


class RankError(AmmaError):
    """Another process of the same training run ended, or is not heard of any more."""

    code = "E_RANK"
