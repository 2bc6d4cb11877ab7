"""What every stage command shares: a user's mistake becomes one clean line and an exit code, never a traceback."""

import errno
import os
import sys
from collections.abc import Callable

from assets.errors import ConfigError, DataError, StoreError

USER_ERROR = 2
DISK_FULL = 3
STORE_FAILED = 4
INTERRUPTED = 130
NOT_READ = 141


def guarded(action: Callable[[], None]) -> int:
    """Run one stage and turn the faults a user can mend into a message on stderr.

    Args:
        action: The stage with its arguments bound.

    Returns:
        The exit code: 0 when it went well, 2 for a wrong config or wrong data, 3 when the disk is full, 4 when the
        object store does not answer or refuses, which may pass by itself, 130 after Ctrl-C, 141 when nobody reads the
        output any more. Anything else is our own bug and keeps its traceback.
    """
    try:
        action()
        sys.stdout.flush()
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return STORE_FAILED
    except KeyboardInterrupt:
        print("interrupted; finished parts stay under work/, run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has enough of it, "| head" for example; flushing at exit must not fail a second time
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_READ
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f" while writing {error.filename}" if error.filename else ""
        print(f"error: no space left on the disk{place}; free some and run the same command again", file=sys.stderr)
        return DISK_FULL
    return 0
