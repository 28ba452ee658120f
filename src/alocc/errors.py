"""Everything alocc raises, or warns of, on purpose.

::

    AloccError                 a failure the user can understand; exit code 1 on the command line
    ├── InputError             something the user gave is wrong; exit code 2 (also a ValueError)
    │   ├── ConfigError        an option or a config file
    │   ├── DataError          images, folders, class names
    │   └── ArtefactError      a saved detector, checkpoint or run folder
    │       └── DamagedError   a file that is not what alocc wrote
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


class NonFiniteLossError(AloccError):
    """A loss became infinite or not a number; the last checkpoint before that is kept."""


class StoppedError(AloccError):
    """The training was asked to stop; its checkpoints hold where it was."""

    exit_code = 130
    """Of the command line: 128 and the signal's number."""


class UselessDetectorWarning(UserWarning):
    """A detector scores that a health check called useless: the reason is in the message."""
