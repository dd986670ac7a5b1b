"""The checks, one file for each group. `eventstreams.verify.registry` lists them all."""
