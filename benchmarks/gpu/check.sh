#!/usr/bin/env bash
# Checks on a machine with an NVIDIA GPU, in at most eight minutes; writes gpu.json and gpu.md to a directory:
#     benchmarks/gpu/check.sh [OUT_DIR] [--dry-run]
# PYTHON names an interpreter with paredown's dependencies (extras compress and gpu, or rtx); nothing is installed.
# --dry-run: what a machine without a GPU can do of it. gpu.md then replaces "What nobody has run yet" in docs/tensorrt.md.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
links="$(mktemp -d)"
trap 'rm -rf "$links"' EXIT
ln -s "$root" "$links/paredown"
export PYTHONPATH="$links${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PAREDOWN_PROGRESS=none
"${PYTHON:-python3}" "$root/benchmarks/gpu/check.py" "$@"
