"""Print what pip-audit found in one file of requirements, and exit with a status for that."""

from __future__ import annotations

import json
import sys
from pathlib import Path

NONE, FOUND, NOT_CHECKED = 0, 1, 75


def main(name: str, report: Path) -> int:
    try:
        packages = json.loads(report.read_text())["dependencies"]
    except (ValueError, KeyError):
        print(f"note: {name}: could not be checked: no answer", file=sys.stderr)
        return NOT_CHECKED
    skipped = [package for package in packages if "skip_reason" in package]
    bad = [package for package in packages if package.get("vulns")]
    for package in bad:
        for found in package["vulns"]:
            mended = ", ".join(found["fix_versions"]) or "no version yet"
            what = f"{package['name']} {package['version']}: {found['id']}"
            print(f"{name}: {what}, mended in {mended}")
    if bad:
        return FOUND
    if skipped or not packages:
        print(f"note: {name}: {len(skipped)} packages could not be checked", file=sys.stderr)
        return NOT_CHECKED
    print(f"{name}: {len(packages)} packages, no known vulnerability")
    return NONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
