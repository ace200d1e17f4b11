"""What `docker build` makes an image of that serves the bundle and does nothing else.

https://docs.docker.com/reference/dockerfile/
"""

from __future__ import annotations

import re
from pathlib import Path

from paredown.runtime.errors import InputError
from paredown.runtime.manifest import MANIFEST, read_manifest

from ...runtimes.registry import RUNTIMES
from ..archive import copy_tree
from .common import pinned_requirements

PORT, USER = 8080, 10001
ABLE = [n for n, r in RUNTIMES.items() if r.SPEC.in_bundles and not (r.SPEC.gpu or r.SPEC.engine or r.SPEC.on_device)]
# What a bundle says is text of strangers, and goes into files that `docker build` executes.
NUMBERS, VERSION = re.compile(r"\d+(\.\d+)+"), re.compile(r"\d[A-Za-z0-9.+!_-]*")
WHEELS = """Wheels that no package index has: put that of paredown here, where yours has none.

In a clone of paredown: pip wheel --no-deps --wheel-dir wheels .
"""
DOCKERFILE = """\
# Serves the bundle beside it. Build: docker build -t NAME:TAG .    Run: docker run -p {port}:{port} NAME:TAG
# Options of `paredown serve` come from the environment: docker run -e PAREDOWN_SERVE_MAX_WAIT_MS=2 ...
# The API key: -e PAREDOWN_API_KEY=... Without one, anyone who reaches the port may use the model.
FROM python:{python}-slim

COPY wheels /wheels
COPY requirements.txt /requirements.txt
RUN pip install --no-cache-dir --find-links /wheels -r /requirements.txt \\
    && useradd --system --uid {user} --no-create-home paredown

COPY bundle /bundle
WORKDIR /bundle
USER {user}
ENV PAREDOWN_SERVE_HOST=0.0.0.0 \\
    PAREDOWN_SERVE_PORT={port} \\
    PYTHONDONTWRITEBYTECODE=1
EXPOSE {port}
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \\
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{{os.environ[\\"PAREDOWN_SERVE_PORT\\"]}}/v2/health/ready')"]
ENTRYPOINT ["paredown", "serve"]
CMD ["/bundle"]
"""


def to_docker(bundle: Path, out: Path) -> None:
    """OUT is a build context: Dockerfile, requirements.txt, bundle/, wheels/.

    Raises InputError for a runtime that needs a GPU, whose libraries this image does not have.
    """
    manifest = read_manifest(bundle)
    if manifest["runtime"] not in ABLE:
        raise InputError(
            f"layout docker: for bundles of {' and '.join(ABLE)}, not {manifest['runtime']}; for a GPU take an image "
            "with its libraries, and in it: pip install 'paredown[serve]' and the bundle's requirements.txt"
        )
    requirements = pinned_requirements(bundle)
    version, python = manifest["tool"]["paredown"], str(manifest["packed_on"].get("python", "3.11.0"))
    if not NUMBERS.fullmatch(python) or not (version == "unknown" or VERSION.fullmatch(version)):
        raise InputError(f"{bundle / MANIFEST}: packed_on.python or tool.paredown is no version; pack the bundle again")
    copy_tree(bundle, out / "bundle")
    (out / "wheels").mkdir()
    (out / "wheels" / "README.txt").write_text(WHEELS, encoding="utf-8")
    server = "paredown[serve]" if version == "unknown" else f"paredown[serve]=={version}"
    (out / "requirements.txt").write_text(f"{requirements}{server}\n", encoding="utf-8")
    minor = ".".join(python.split(".")[:2])
    (out / "Dockerfile").write_text(DOCKERFILE.format(python=minor, port=PORT, user=USER), encoding="utf-8")
