"""Every error a user can meet: what went wrong, why, and what to type next.

``UserError`` is the user's mistake (exit code 2); any other ``HubquantError`` is a failure of the work itself (exit
code 1). Messages are one sentence each and never hold a token.
"""

from __future__ import annotations


class HubquantError(Exception):
    """``what`` happened, ``why`` (optional), and a ``hint``: the next command or action."""

    exit_code = 1

    def __init__(self, what: str, *, why: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        return ": ".join(part for part in (self.what, self.why) if part)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.why, self.hint)


def _rebuild(cls: type[HubquantError], what: str, why: str | None, hint: str | None) -> HubquantError:
    return cls(what, why=why, hint=hint)


class UserError(HubquantError):
    """Something the user can mend."""

    exit_code = 2


class NotSupportedYet(UserError):
    """A feature this version does not have; ``what`` names it."""

    def __init__(self, what: str, *, why: str | None = None, hint: str | None = None) -> None:
        super().__init__(
            what if what.startswith("not supported yet") else f"not supported yet: {what}", why=why, hint=hint
        )


class RecipeError(UserError):
    """A recipe or an override that cannot be understood."""


class CheckpointError(UserError):
    """A model folder that is incomplete, corrupt or hostile."""


class AdapterError(CheckpointError):
    """An adapter in the place of a model."""


class TokenizerError(UserError):
    """A tokenizer that cannot be written to GGUF."""


class OtherTokensError(TokenizerError):
    """llama.cpp cuts texts into other tokens than the model's own tokenizer."""


class CalibrationError(UserError):
    """Calibration or evaluation text that cannot be used."""


class ImatrixError(UserError):
    """An importance matrix that cannot be read or belongs to another model."""


class GGUFError(UserError):
    """A GGUF file that cannot be read."""


class HubAccessError(UserError):
    """A repository that does not exist or may not be read or written with this token."""


class SignInError(HubAccessError):
    """What a token that the Hub accepts might open: there is none, or this one is not accepted (any more)."""


class OutputError(UserError):
    """A place that cannot be written to."""


class HubUnavailableError(HubquantError):
    """The Hub or the network did not answer."""


class DiskFullError(HubquantError):
    """No room left while writing."""


class VerificationError(HubquantError):
    """A written file does not hold what its source holds."""


class MixError(UserError):
    """A file type, rule or tensor type that does not exist or does not fit the model."""


class BaselineError(UserError):
    """A stored baseline that cannot be read or belongs to another model or text."""


class EvaluationError(HubquantError):
    """A model whose output cannot be measured."""
