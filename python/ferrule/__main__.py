"""The `ferrule` command: the same code as the standalone binary."""

import signal
import sys

from ferrule import _core


def main() -> None:
    """Run the command with the process's arguments, and exit with its code."""
    # Python would only note a Ctrl-C and go on; the command handles it, or ends by it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_core.main(["ferrule", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
