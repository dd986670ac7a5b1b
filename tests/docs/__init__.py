"""The README and docs/: their links, their commands and snippets, and the pages made from code."""
