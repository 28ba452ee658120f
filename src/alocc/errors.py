"""Everything alocc raises, or warns of, on purpose.

::

    AloccError                 a failure the user can understand; exit code 1 on the command line
    ├── InputError             something the user gave is wrong; exit code 2 (also a ValueError)
    │   ├── ConfigError        an option or a config file
    │   ├── DataError          images, folders, class names
    │   ├── ArtefactError      a saved detector, checkpoint or run folder
    │   │   └── DamagedError   a file that is not what alocc wrote
    │   ├── UnknownModelError  the server has no model of that name
    │   └── RefusedError       the server does not answer such a request
    ├── BusyError              the server has too much to do; ask again later
    ├── NonFiniteLossError     training diverged; the last good state was kept
    └── StoppedError           the training was asked to stop; its checkpoints are kept

    UselessDetectorWarning     a detector scores that a health check called useless (a UserWarning)

A message says what is wrong, with which file or option, and what to do about it.
"""


class AloccError(Exception):
    """Base of every error that alocc raises on purpose."""


class InputError(AloccError, ValueError):
    """Something the user gave is wrong: nothing was computed and nothing was written."""


class ConfigError(InputError):
    """An option, a preset's name or a config file is wrong."""


class DataError(InputError):
    """Images, a folder, a class name or an array is wrong."""


class ArtefactError(InputError):
    """A file or folder that alocc should have written is missing, damaged or of another version."""


class DamagedError(ArtefactError):
    """A file of tensors is truncated, has other bits than were written, or was not written by alocc."""


class UnknownModelError(InputError):
    """The server has no model of that name."""


class RefusedError(InputError):
    """The server does not answer such a request.

    Args:
        status: HTTP's number of the reason.
        message: the reason, in words for whoever asked: without paths of the server.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class BusyError(AloccError):
    """The server has too much to do.

    Args:
        retry_after: whole seconds after which it is worth asking again, 1 or more.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too many images are waiting; ask again in {retry_after} s")
        self.retry_after = retry_after


class NonFiniteLossError(AloccError):
    """A loss became infinite or not a number; the last checkpoint before that is kept."""


class StoppedError(AloccError):
    """The training was asked to stop; its checkpoints hold where it was."""

    exit_code = 130
    """Of the command line: 128 and the signal's number."""


class UselessDetectorWarning(UserWarning):
    """A detector scores that a health check called useless: the reason is in the message."""
