"""Does this bundle arrive whole, fit this machine, and still compute the same? Run it: python selftest.py

Needs numpy, tokenizers (of images Pillow) and the bundle's runtime. `paredown verify` does the same with its own
code: it never runs this file, nor `paredown_bundle` beside it.
"""

# Copied to the top of every bundle as selftest.py; `paredown.runtime` is copied beside it as `paredown_bundle`.

import sys
from pathlib import Path

sys.dont_write_bytecode = True  # a bundle stays as it was packed
try:
    from paredown_bundle.selftest import (  # pyright: ignore[reportMissingImports]
        check_files,
        main,
        open_model,
        read_manifest,
    )
except Exception as error:  # numpy or tokenizers not installed; a file beside this one missing or damaged
    if __name__ != "__main__":
        raise
    sys.exit(f"FAILED: {error}; pip install --no-deps -r requirements.txt, and unpack the bundle again if that is done")

__all__ = ["check_files", "main", "open_model", "read_manifest"]

if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent))
