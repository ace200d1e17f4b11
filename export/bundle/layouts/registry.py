"""What `pack` can make of a bundle; each layout is a file here and one entry in this table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .bentoml import to_bentoml
from .directory import to_archive, to_plain
from .docker import to_docker
from .executorch import to_executorch
from .hub import to_hub
from .hub_upload import Upload
from .kserve import FILE, to_kserve
from .litert import to_litert
from .mobile import to_mobile
from .npu import to_npu
from .oci import to_oci
from .triton import to_triton


@dataclass(frozen=True)
class Layout:
    """How a bundle is laid out for one receiver."""

    write: Callable[..., None]  # takes a bundle whose files were checked, an empty directory to fill, and `options`
    then: Callable[[Path], Sequence[object]]  # the command to type next, for the directory that was written
    holds_bundle: bool = True  # the bundle is in it, whole, so that its signature still means something
    upload: type[Upload] | None = None  # where it can be published from here
    options: tuple[str, ...] = ()  # of `pack`, that are for this layout: arguments of `write`


LAYOUTS = {
    "plain": Layout(to_plain, lambda out: ("paredown", "verify", out)),
    "archive": Layout(to_archive, lambda out: ("paredown", "verify", next(out.glob("*.tar.gz")))),
    "triton": Layout(to_triton, lambda out: ("tritonserver", "--model-repository", out), holds_bundle=False),
    "hub": Layout(to_hub, lambda out: ("hf", "upload", "OWNER/NAME", out), holds_bundle=False, upload=Upload),
    "oci": Layout(to_oci, lambda out: ("skopeo", "copy", f"oci:{out}", "docker://REGISTRY/NAME:TAG")),
    "docker": Layout(to_docker, lambda out: ("docker", "build", "--tag", "NAME:TAG", out)),
    "kserve": Layout(to_kserve, lambda out: ("kubectl", "apply", "--filename", out / FILE)),
    "bentoml": Layout(to_bentoml, lambda out: ("bentoml", "serve", out)),
    "mobile": Layout(to_mobile, lambda out: ("adb", "push", out, "/data/local/tmp"), holds_bundle=False),
    "executorch": Layout(to_executorch, lambda out: ("adb", "push", out, "/data/local/tmp"), holds_bundle=False),
    "litert": Layout(to_litert, lambda out: ("adb", "push", out, "/data/local/tmp"), holds_bundle=False),
    "npu": Layout(
        to_npu,
        lambda out: ("cat", out / "README.md"),
        holds_bundle=False,
        options=("profile", "data", "text_column", "activations", "embedding", "length"),
    ),
}
