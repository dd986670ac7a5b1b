"""The entry of the command line: `eventstreams`, the same as `python -m eventstreams`.

Imports are slow, so they come inside `run`, where a Ctrl-C that arrives meanwhile is handled.
"""

import sys


def run() -> None:
    """Run the command that the arguments name."""
    try:
        if sys.argv[1:2] == ["serve"]:
            from eventstreams.server import signals  # noqa: PLC0415

            signals.catch_early()
        from eventstreams.cli import main  # noqa: PLC0415

        main(prog_name="eventstreams")
    except KeyboardInterrupt:
        sys.exit("Error: interrupted")


if __name__ == "__main__":
    run()
