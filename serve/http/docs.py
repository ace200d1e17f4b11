"""GET /docs: Swagger UI over the OpenAPI document, with the files of the package fastapi-offline: no network."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from ..errors import HTTPError

SCRIPT, STYLE = "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"
POLICY = "default-src 'self' 'unsafe-inline'; img-src 'self' data:"  # Content-Security-Policy of a page of the server
# Relative paths, and the address that the page came from as the server: a proxy may serve all of it under a path.
PAGE = r"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<title>paredown: API</title>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>
fetch("openapi.json").then(reply => reply.json()).then(spec => SwaggerUIBundle({
  spec: {...spec, servers: [{url: new URL(".", location).href.replace(/\/$/, "")}]},
  dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
}));
</script>
</html>
"""


@functools.cache
def asset(path: str) -> bytes:
    """A file of Swagger UI, by its path on the server. HTTPError 404 where the package is not installed."""
    found = importlib.util.find_spec("fastapi_offline")
    if found is None or found.origin is None:
        raise HTTPError(404, "Swagger UI is not installed; it comes with: pip install 'paredown[serve]'")
    return (Path(found.origin).parent / "static" / Path(path).name).read_bytes()
