"""`python -m app.gpu_checks [OUT.json]`: the checks with torch, NumPy and rich alone, for a bare GPU machine."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from app.gpu_checks.files import write_result
from app.gpu_checks.run import print_plan, print_table, run_checks
from models.runtimes.nvidia import GpuError


def main() -> int:
    try:
        result = run_checks(False, Console(stderr=True).print)
    except GpuError as error:
        print_plan(str(error))
        return 3
    print_table(result, Console(width=170))
    if len(sys.argv) > 1:
        write_result(result, Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
