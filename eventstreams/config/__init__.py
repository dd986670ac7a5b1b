"""Reads and reloads what an operator writes: the settings and the stream catalogue.

`settings.py` contains the frozen sections and their defaults; `validation.py` checks settings that
depend on each other; `catalogue.py` reads the streams. `LiveSettings` and `CatalogueWatcher` reload
the files while streams stay open; a file with mistakes changes nothing.

Easy to get wrong: a reload applies only the settings that `reloader.py` lists as live. All others
take effect at the next start.
"""
