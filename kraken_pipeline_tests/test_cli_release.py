"""Releases of a dataset from the shell, and their signatures."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from kraken_pipeline.storage.stores import opened
from kraken_pipeline_tests.support.homes import Shelf, digest_of, run, settings_of
from kraken_pipeline_tests.support.shell import ROOT, shell

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Path:
    """A home with hours and days of one quarter; only to copy."""
    home = tmp_path_factory.mktemp("ingested") / "home"
    with opened(settings_of(home)) as stores:
        run(stores, shelf.q1, intervals="60,1440")
    return home


@pytest.fixture
def own(ingested: Path, tmp_path: Path) -> Path:
    """A copy of that home."""
    return Path(shutil.copytree(ingested, tmp_path / "home"))


def keys(folder: Path, name: str = "key") -> tuple[Path, Path]:
    """A private and a public key in PEM."""
    private = Ed25519PrivateKey.generate()
    secret, public = folder / f"{name}.pem", folder / f"{name}.pub"
    secret.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return secret, public


def test_a_release_is_made_listed_verified_compared_and_deleted(own: Path, shelf: Shelf) -> None:
    options = ("--pairs", "xbtusd", "--intervals", "60,1440", "--end", "2023-03-30")
    made = shell(own, "release", "create", "first", *options)
    assert made.code == 0, made.err
    folder = own / "releases" / "first"
    said = json.loads((folder / "RELEASE.json").read_text())
    assert f"digest {said['digest']}" in made.out
    assert str(folder) in made.out.replace("\n", "")
    made = shell(own, "release", "create", "second", "--json")
    assert (made.code, made.json["name"], made.json["signed"]) == (0, "second", False)

    listed = shell(own, "release", "list", "--json").json
    assert [release["name"] for release in listed] == ["first", "second"]
    assert listed[0]["digest"] == said["digest"]
    assert said["digest"] in shell(own, "release", "list").out

    verified = shell(own, "release", "verify", "first", "--json")
    assert (verified.code, verified.json["status"], verified.json["digest"]) == (0, "ok", said["digest"])
    assert "Every claim of first that can be checked holds" in shell(own, "release", "verify", "first").out

    different = shell(own, "release", "diff", "first", "second", "--json", "--limit", "3")
    assert different.code == 0
    assert {series["only_in"] for series in different.json["series"]} >= {"B"}
    assert (len(different.json["candles"]), different.json["candles_in_all"] > 3) == (3, True)
    printed = shell(own, "release", "diff", "first", "second", "--limit", "3").out
    assert "Series that differ" in printed
    assert "3 of " in printed
    assert "Both releases have the digest" in shell(own, "release", "diff", "second", "second").out

    text = (ROOT / "docs" / "json.md").read_text()
    told = [
        listed[0],
        made.json,
        verified.json,
        different.json,
        *(different.json[key][0] for key in ("series", "candles")),
    ]
    assert [key for one in told for key in one if not re.search(rf"\b{key}\b", text)] == []

    lake = digest_of(own / "lake")
    assert shell(own, "release", "delete", "first").code == 0
    assert [release["name"] for release in shell(own, "release", "list", "--json").json] == ["second"]
    assert digest_of(own / "lake") == lake


def test_a_claim_that_fails_is_named_and_is_a_failure(own: Path) -> None:
    shell(own, "release", "create", "first")
    folder = own / "releases" / "first"
    path = next(folder.rglob("*.parquet"))
    path.unlink()
    failed = shell(own, "release", "verify", str(folder))
    assert failed.code == 1
    assert f"{path.relative_to(folder)}: does not exist" in failed.out
    assert "1 claim of the release in" in failed.out
    assert shell(own, "release", "verify", "first", "--json").json["failures"] == [
        {"claim": path.relative_to(folder).as_posix(), "detail": "does not exist"}
    ]


def test_a_release_is_verified_where_there_is_no_home(own: Path, tmp_path: Path) -> None:
    shell(own, "release", "create", "first")
    folder = Path(shutil.copytree(own / "releases" / "first", tmp_path / "elsewhere" / "downloaded"))
    home = folder.parent / "nothing"
    assert shell(home, "release", "verify", "downloaded").code == 0
    assert shell(home, "release", "diff", "downloaded", "downloaded").code == 0
    assert not home.exists()


def test_what_cannot_be_done_is_said_in_a_sentence(own: Path) -> None:
    shell(own, "release", "create", "first")
    for words, sentence in {
        "create first": "there is a release first already",
        "create a/b": "cannot be the name of a release",
        "create second --pairs NOPEUSD": "NOPEUSD is unknown",
        "create second --end 2020-01-01": "nothing is selected",
        "verify firts": "there is no release 'firts'",
        "verify .": "has no RELEASE.json",
        "diff first secnod": "there is no release 'secnod'",
        "delete ..": "there is no release '..'",
        "verify first --public-key nothing.pem": "the key nothing.pem cannot be read",
    }.items():
        said = shell(own, "release", *words.split())
        assert (said.code, said.out) == (2, ""), words
        assert sentence in said.err
    assert "There is no release" in shell(own.parent / "empty", "release", "list").out
    assert shell(own.parent / "empty", "release", "list", "--json").json == []


def test_a_signature_covers_all_of_the_certificate(own: Path, tmp_path: Path) -> None:
    secret, public = keys(tmp_path)
    _, other = keys(tmp_path, "other")
    assert shell(own, "release", "create", "first", "--sign-with", str(secret), "--json").json["signed"] is True
    folder = own / "releases" / "first"

    def verified(*options: str) -> tuple[int, str]:
        said = shell(own, "release", "verify", "first", *options, "--json")
        return said.code, said.json["signature"]

    assert verified() == (0, "not checked")
    assert "--public-key" in shell(own, "release", "verify", "first").out
    assert verified("--public-key", str(public)) == (0, "valid")
    assert "The signature is valid." in shell(own, "release", "verify", "first", "--public-key", str(public)).out
    assert verified("--public-key", str(other)) == (1, "wrong")
    content = (folder / "RELEASE.json").read_bytes()
    (folder / "RELEASE.json").write_bytes(content.replace(b'"name": "first"', b'"name": "fir5t"', 1))
    assert verified("--public-key", str(public)) == (1, "wrong")
    assert verified() == (0, "not checked"), "the name is in no digest, only under the signature"
    (folder / "RELEASE.json").write_bytes(content)
    (folder / "RELEASE.json.sig").unlink()
    assert verified("--public-key", str(public)) == (1, "missing")


@pytest.mark.process
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_a_signature(own: Path, tmp_path: Path) -> None:
    secret, public = keys(tmp_path)
    shell(own, "release", "create", "first", "--sign-with", str(secret))
    folder = own / "releases" / "first"
    files = ("-in", folder / "RELEASE.json", "-sigfile", folder / "RELEASE.json.sig")
    words = ("openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public, *files)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "Signature Verified Successfully"), done.stderr


def test_an_unusable_key_is_refused_before_anything_is_made(own: Path, tmp_path: Path) -> None:
    rsa = generate_private_key(65_537, 2_048)
    (tmp_path / "rsa.pem").write_bytes(rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    encrypted = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    (tmp_path / "encrypted.pem").write_bytes(encrypted)
    (tmp_path / "text.pem").write_text("mine")
    for name, sentence in {
        "rsa.pem": "is not of Ed25519",
        "encrypted.pem": "is encrypted",
        "text.pem": "has no private key in PEM",
        "nothing.pem": "cannot be read",
    }.items():
        said = shell(own, "release", "create", "first", "--sign-with", str(tmp_path / name))
        assert said.code == 2
        assert sentence in said.err
    assert not (own / "releases").exists()
