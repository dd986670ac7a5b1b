"""`python -m eventstreams`, the same as `eventstreams`."""

from eventstreams.cli import main

main(prog_name="eventstreams")
