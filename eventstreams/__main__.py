"""The entry of the command line: `eventstreams`, the same as `python -m eventstreams`."""

import sys

from eventstreams.server import signals


def run() -> None:
    """Run the command that the arguments name."""
    if sys.argv[1:2] == ["serve"]:
        signals.catch_early()
    from eventstreams.cli import main  # noqa: PLC0415 - slow, and signals come first

    main(prog_name="eventstreams")


if __name__ == "__main__":
    run()
