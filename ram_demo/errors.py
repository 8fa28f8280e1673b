"""The one family of errors that a user can mend. Knows nothing of where they are shown.

The edges (the page, the command line) turn a `UserError` into its one sentence; every other exception is
a defect or a broken machine, and is left to fail loudly with its traceback in the log.
"""


class UserError(Exception):
    """A mistake in what was asked or given. `str(error)` is one clear sentence for the person who asked."""


class StorageError(UserError):
    """The data folder cannot be written (full disk, read-only). Nothing was saved, and the person is told so."""
