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
    assert signer_of(bundle) == Signer(len(files), f"the key with sha256 {fingerprint}")
    said = f"{len(files)} files by the key with sha256 {fingerprint}"
    done = paredown("verify", bundle, "--public-key", keys[1])
    assert f"signed   {said}" in done.stdout, done.stderr
    assert f"note: model.sig: {said}" in paredown("verify", bundle).stdout
    for other in ('{"messageSignature": {}}', "-----BEGIN PGP SIGNATURE-----"):  # verify was not asked about it
        signature.write_text(other)
        assert signer_of(bundle) is None
    done = paredown("verify", bundle)
    assert done.returncode == 0, done.stderr
    assert "note: model.sig: in a form that is not read here" in done.stdout


def signed_with(folder: Path, material: dict) -> Path:
    """`folder` with a model.sig of two files that has this material."""
    payload = base64.b64encode(json.dumps({"predicate": {"resources": [{}, {}]}}).encode()).decode()
    content = {"verificationMaterial": material, "dsseEnvelope": {"payload": payload}}
    (folder / "model.sig").write_text(json.dumps(content))
    return folder


def certificate(names: list[x509.GeneralName]) -> dict:
    """The material of a signature by sigstore: a certificate that is issued to `names`."""
    key, day = ec.generate_private_key(ec.SECP256R1()), datetime(2026, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([])).public_key(key.public_key())
        .serial_number(1).not_valid_before(day).not_valid_after(day)
    )  # fmt: skip
    if names:
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=True)
    raw = made.sign(key, hashes.SHA256()).public_bytes(formats.Encoding.DER)
    return {"certificate": {"rawBytes": base64.b64encode(raw).decode()}}


def test_of_a_certificate_the_names_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signature by sigstore has one: an address and a workflow."""
    names = [x509.RFC822Name("me@example.org"), x509.UniformResourceIdentifier("https://example.org/workflow")]
    material = certificate(names)
    signer = Signer(2, "a certificate, me@example.org, https://example.org/workflow")
    assert signer_of(signed_with(tmp_path, material)) == signer
    (raw,) = material.values()
    assert signer_of(signed_with(tmp_path, {"x509CertificateChain": {"certificates": [raw]}})) == signer
    monkeypatch.setitem(sys.modules, "cryptography", None)
    said = "a certificate, which cannot be read without 'paredown[sign]'"
    assert signer_of(tmp_path) == Signer(2, said)


@pytest.mark.parametrize(
    ("material", "by"),
    [
        (certificate([]), "a certificate, which has no name in it"),
        ({"certificate": {"rawBytes": "AAAA"}}, "a certificate, which cannot be read"),
        ({"publicKey": {}}, "a key, without its sha256"),
    ],
)
def test_a_signature_that_names_nobody_is_no_error(material: dict, by: str, tmp_path: Path) -> None:
    assert signer_of(signed_with(tmp_path, material)) == Signer(2, by)


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
