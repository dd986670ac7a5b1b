"""Tools for authors of schemas: materialize, check and compare the schemas of a folder.

`SchemaFolder` finds the files, `Materializer` writes versions from `current.yaml`, and `check.py`
runs all checks. The rules are those of Wikimedia's jsonschema-tools.

Easy to get wrong: materializing never changes a released version, unless it is forced.
"""
