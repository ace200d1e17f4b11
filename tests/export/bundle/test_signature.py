"""A key pair says who made a bundle; without the library it is one line."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from bundling import bundle_of
from conftest import TASK, paredown, refused
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as formats
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from strangers import key_pair

from paredown.compress.models.loading import Checkpoint
from paredown.export.bundle.signature import Signer, check_signature, sign, signer_of
from paredown.runtime.errors import InputError
from paredown.runtime.manifest import BundleError


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return key_pair(tmp_path / "mine")


def test_signed_packed_unpacked_and_checked(finished: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    done = paredown("pack", finished, "--layout", "archive", "--private-key", private, "--output-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    archive = tmp_path / "out" / "tiny.tar.gz"
    done = paredown("verify", archive, "--public-key", public)
    assert done.returncode == 0, done.stderr
    assert "signed" in done.stdout
    done = paredown("verify", archive)
    assert done.returncode == 0, "a signature that is not asked about does no harm"
    assert "note: signed; not checked: give --public-key FILE" in done.stdout
    done = paredown("verify", archive, "--public-key", key_pair(tmp_path / "other")[1])
    assert done.returncode == 1
    assert "not a signature of this bundle" in done.stderr
    done = paredown("verify", finished / "bundle", "--public-key", public)
    assert done.returncode == 1
    assert "this bundle is not signed" in done.stderr


def test_the_librarys_own_command_reads_it(finished: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    bundle = shutil.copytree(finished / "bundle", tmp_path / "bundle")
    sign(bundle, private)
    command = [sys.executable, "-m", "model_signing", "verify", "key", "--signature", bundle / "model.sig",
               "--public_key", public, bundle]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_whatever_changed_after_signing_is_not_signed(finished: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    bundle = shutil.copytree(finished / "bundle", tmp_path / "bundle")
    signature = sign(bundle, private)
    check_signature(bundle, public)
    for name in ("manifest.json", "model.sig", "README.md", ".gitignore"):
        path = bundle / name
        raw = path.read_bytes() if path.exists() else None
        path.write_bytes((raw or b"")[:-1] + b"?")
        with pytest.raises(BundleError, match=r"model.sig: not a signature of this bundle"):
            check_signature(bundle, public)
        path.unlink() if raw is None else path.write_bytes(raw)
    signature.unlink()
    signature.symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match="not signed"):
        check_signature(bundle, public)


def test_a_signature_says_which_key_has_signed_which_files(
    untrained: Checkpoint, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle = bundle_of(untrained, TASK, tmp_path / "made")
    signature = sign(bundle, keys[0])
    files = [path for path in bundle.rglob("*") if path.is_file() and path != signature]
    fingerprint = hashlib.sha256(keys[1].read_bytes()).hexdigest()
    assert signer_of(bundle) == Signer(len(files), fingerprint, None)
    said = f"{len(files)} files by the key with sha256 {fingerprint}"
    done = paredown("verify", bundle, "--public-key", keys[1])
    assert f"signed   {said}" in done.stdout, done.stderr
    assert f"note: model.sig says: {said}" in paredown("verify", bundle).stdout
    signature.write_text("{}")
    with pytest.raises(BundleError, match=r"model\.sig: damaged"):
        signer_of(bundle)


def test_of_a_certificate_the_names_are_said(tmp_path: Path) -> None:
    """As a signature by sigstore has one: an address and a workflow."""
    key, day = ec.generate_private_key(ec.SECP256R1()), datetime(2026, 1, 1, tzinfo=UTC)
    names = [x509.RFC822Name("me@example.org"), x509.UniformResourceIdentifier("https://example.org/workflow")]
    certificate = (
        x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([])).public_key(key.public_key())
        .serial_number(1).not_valid_before(day).not_valid_after(day)
        .add_extension(x509.SubjectAlternativeName(names), critical=True).sign(key, hashes.SHA256())
    )  # fmt: skip
    raw = base64.b64encode(certificate.public_bytes(formats.Encoding.DER)).decode()
    payload = base64.b64encode(json.dumps({"predicate": {"resources": [{}, {}]}}).encode()).decode()
    content = {"verificationMaterial": {"certificate": {"rawBytes": raw}}, "dsseEnvelope": {"payload": payload}}
    (tmp_path / "model.sig").write_text(json.dumps(content))
    assert signer_of(tmp_path) == Signer(2, None, "me@example.org, https://example.org/workflow")


def test_a_key_that_is_none_and_a_layout_without_a_bundle(finished: Path, keys: tuple, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("x")
    rsa_key, pem = rsa.generate_private_key(65537, 2048), formats.Encoding.PEM
    private = rsa_key.private_bytes(pem, formats.PrivateFormat.PKCS8, formats.NoEncryption())
    public = rsa_key.public_key().public_bytes(pem, formats.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "rsa.pem").write_bytes(private)
    (tmp_path / "rsa.pub").write_bytes(public)
    with pytest.raises(
        InputError, match=r"^--private-key \S+rsa.pem: not an unencrypted PEM key on P-256, P-384 or P-521;"
    ):
        sign(tmp_path, tmp_path / "rsa.pem")
    with pytest.raises(InputError, match=r"^--public-key \S+rsa.pub: not a PEM public key on P-256, P-384 or P-521;"):
        check_signature(tmp_path, tmp_path / "rsa.pub")
    for arguments in (
        ["pack", finished, "--output-dir", tmp_path / "o", "--private-key"],
        ["verify", finished / "bundle", "--public-key"],
    ):
        for bad in (tmp_path / "bad.pem", tmp_path / "missing.pem"):
            refused(paredown(*arguments, bad), str(bad), "openssl")
    command = ["pack", finished, "--layout", "triton", "--private-key", keys[0], "--output-dir", tmp_path / "t"]
    refused(paredown(*command), "holds no bundle to sign")


def test_without_the_library_it_is_one_line(finished: Path, keys: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    refused(paredown("verify", finished / "bundle", "--public-key", keys[1]), "pip install 'paredown[sign]'")
