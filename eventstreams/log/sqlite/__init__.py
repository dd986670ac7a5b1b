"""The embedded log: one SQLite file, one thread that writes, a few that read.

`log.py` implements the contract; `file.py` opens, checks and watches the file; `writer.py` gathers
waiting appends into one `Transaction` (`transaction.py`, which has the SQL of appends); `reader.py`
holds the queries and the `ReaderPool`.
"""
