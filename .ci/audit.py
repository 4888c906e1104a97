"""Known vulnerabilities of the pinned versions, as a report: always ends with 0, and says whether anything was asked.

pip-audit ends with 0 and "No known vulnerabilities found" where the advisory service answers nothing about any package,
for example behind a mirror. So its JSON is read, and packages without an answer are counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
TIMEOUT_S = 60


def verdict(report: str, errors: str = "") -> list[str]:
    """Lines about what pip-audit printed: its JSON, or why there is none."""
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        reason = (errors.strip().splitlines() or ["pip-audit printed nothing"])[-1]
        return [f"audit: the advisory service was not reached; NOTHING was audited: {reason[:160]}"]
    asked = [package for package in packages if "skip_reason" not in package]
    if not asked:
        return [f"audit: the advisory service was not reached; {len(packages)} packages were NOT audited"]
    found = [(package, advisory) for package in asked for advisory in package["vulns"]]
    lines = [f"audit: {len(asked)} of {len(packages)} packages audited, {len(found)} known vulnerabilities"]
    for package, advisory in found:
        fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
        lines.append(f"  {package['name']} {package['version']}: {advisory['id']}, repaired in {fixed}")
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    return [*lines, f"  NOT audited: {', '.join(skipped)}"] if skipped else lines


def main() -> None:
    """Ask and tell."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), "--disable-pip", "--no-deps"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        lines = [f"audit: NOTHING was audited: {str(error)[-100:]}"]
    else:
        lines = verdict(done.stdout, done.stderr)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
