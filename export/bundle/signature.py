"""Signs and verifies all files of a bundle with a key pair (library `model-signing`).

`model.sig` lies in the bundle, and `model_signing verify key --signature model.sig --public_key K .` reads it too.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from paredown.runtime.errors import InputError, missing_extra
from paredown.runtime.manifest import DAMAGED, SIGNATURE, BundleError

MAKE_PRIVATE = "make one with: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
MAKE_PUBLIC = "make it with: openssl ec -in key.pem -pubout -out key.pub"


def sign(bundle: Path, private_key: Path) -> Path:
    """Write model.sig into the bundle, made with a PEM key on one of NIST's curves (P-256, P-384, P-521).

    Raises InputError for a key that cannot be used, or when the library is missing.
    """
    signing, _, hashing = _library()
    _require_key(private_key, "--private-key", MAKE_PRIVATE)
    target = bundle / SIGNATURE
    target.unlink(missing_ok=True)
    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=private_key)
    except Exception as error:  # cryptography raises its own classes, TypeError for a key with a password
        raise InputError(
            f"--private-key {private_key}: not an unencrypted PEM key on P-256, P-384 or P-521{_why(error)}; "
            f"{MAKE_PRIVATE}"
        ) from None
    signer.set_hashing_config(_hashing(hashing)).sign(bundle, target)
    return target


def check_signature(bundle: Path, public_key: Path) -> None:
    """Raise BundleError unless model.sig was made with the private key of this one, over these very files."""
    path, verifier = bundle / SIGNATURE, verifier_of(public_key)
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{SIGNATURE}: no such file; this bundle is not signed")
    try:
        verifier.verify(bundle, path)
    except Exception as error:  # ValueError, InvalidSignature, and those of three parsers
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BundleError(f"{SIGNATURE}: not a signature of this bundle by {public_key}: {reason}") from None


@dataclass(frozen=True)
class Signer:
    """What model.sig says of itself; nothing of it is verified here."""

    files: int
    by: str  # the key or the certificate

    def __str__(self) -> str:
        return f"{self.files} files by {self.by}"


def signer_of(bundle: Path) -> Signer | None:
    """Who model.sig says has signed how many files; None where it is in another form than model-signing's.

    Sigstore's bundle, version 0.3, with an in-toto statement: https://docs.sigstore.dev/about/bundle.
    """
    try:
        content = json.loads((bundle / SIGNATURE).read_bytes())
        material = content["verificationMaterial"]
        statement = json.loads(base64.b64decode(content["dsseEnvelope"]["payload"]))
        return Signer(len(statement["predicate"]["resources"]), _signed_by(material))
    except (*DAMAGED, OSError):
        return None


def _signed_by(material: dict) -> str:
    """The key, by the sha256 of its PEM file where model-signing wrote that, or the certificate."""
    if "publicKey" in material:
        hint = material["publicKey"].get("hint")
        return f"the key with sha256 {hint}" if hint else "a key, without its sha256"
    leaf = material.get("certificate") or material["x509CertificateChain"]["certificates"][0]
    return f"a certificate, {_names(base64.b64decode(leaf['rawBytes']))}"


def _names(certificate: bytes) -> str:
    """The subject's alternative names of a certificate (DER), addresses and URIs; else why there are none."""
    try:
        from cryptography import x509
    except ImportError:
        return "which cannot be read without 'paredown[sign]'"
    try:
        extensions = x509.load_der_x509_certificate(certificate).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return ", ".join(str(name.value) for name in names)
    except x509.ExtensionNotFound:
        return "which has no name in it"
    except Exception:  # ValueError, and classes of x509 that have no common one
        return "which cannot be read"


def verifier_of(public_key: Path):
    """A verifier of signatures by the private key of this public one. Raises InputError for a key that cannot be used,
    or when the library is missing.
    """
    _, verifying, hashing = _library()
    _require_key(public_key, "--public-key", MAKE_PUBLIC)
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except Exception as error:
        raise InputError(
            f"--public-key {public_key}: not a PEM public key on P-256, P-384 or P-521{_why(error)}; {MAKE_PUBLIC}"
        ) from None
    return verifier.set_hashing_config(_hashing(hashing))


def _require_key(path: Path, option: str, how: str) -> None:
    if not path.is_file():
        raise InputError(f"{option} {path}: no such file; {how}")


def _why(error: Exception) -> str:
    """In brackets; nothing where a key of another kind, RSA for one, has made the library stumble over itself."""
    return "" if isinstance(error, AttributeError) else f" ({' '.join(str(error).split())})"


def _hashing(hashing):
    """Every file of the bundle but the signature itself."""
    return hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _library():
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise missing_extra(error.name or "model_signing", "sign") from None
    return signing, verifying, hashing
