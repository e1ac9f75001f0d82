"""Makes the stand-ins for what a registry would have: the engine, and two root file systems, from Debian's packages.

They are kept below the target folder. Run as root, on a machine that reaches Debian's packages: tests/run does.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

ENGINE_PACKAGES = ["docker.io", "containerd", "runc", "tini"]
SERVICE_PACKAGES = ["postgresql", "prometheus", "haproxy", "busybox"]
# What no test reads, a third of the whole.
DISPENSABLE = ["usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists"]
# Programs under names at which the images that compose asks for have them.
LINKS = 'ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/ && ln -s /bin/busybox /usr/local/bin/wget'


def folder() -> pathlib.Path:
    root = pathlib.Path(__file__).resolve().parents[2]
    return root / os.environ.get("CARGO_TARGET_DIR", "target") / "deploy"


def release() -> str:
    """The machine's own Debian: what was linked here runs there."""
    lines = pathlib.Path("/etc/os-release").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)["VERSION_CODENAME"].strip('"')


def run(*command, **options):
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment,
                          timeout=600, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command[:4]))} … failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def unpack_engine(into: pathlib.Path):
    """The packages are unpacked and not installed, so that no service of the machine's own starts."""
    run("apt-get", "update")
    run("apt-get", "download", *ENGINE_PACKAGES, cwd=into)
    for package in into.glob("*.deb"):
        run("dpkg", "-x", package, into)
        package.unlink()


def pack(tree: pathlib.Path, archive: pathlib.Path):
    # Last, so that a half-made one is not used.
    half = archive.with_suffix(".half")
    run("tar", "--directory", tree, "--create", "--file", half, ".")
    half.rename(archive)


def make_images(work: pathlib.Path, base: pathlib.Path, services: pathlib.Path):
    """`base` is a minimal Debian; `services` has Postgres, Prometheus and the balancer as well."""
    tree = work / "tree"
    run("debootstrap", "--variant=minbase", release(), tree)
    # Also for packages: a service must not start while its package is being installed.
    (tree / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (tree / "usr/sbin/policy-rc.d").chmod(0o755)
    pack(tree, base)
    for name in ["etc/resolv.conf", "etc/hosts"]:
        shutil.copy(f"/{name}", tree / name)
    run("chroot", tree, "apt-get", "install", "-y", "--no-install-recommends", *SERVICE_PACKAGES)
    run("chroot", tree, "sh", "-ec", LINKS)
    for name in DISPENSABLE:
        shutil.rmtree(tree / name, ignore_errors=True)
    # Only compiles queries of analysts, and is larger than all the rest of Postgres.
    for library in tree.glob("usr/lib/**/libLLVM*"):
        library.unlink()
    pack(tree, services)


def made() -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """The engine's folder, and the archives `base` and `services`; makes what is missing."""
    name = hashlib.sha256(pathlib.Path(__file__).read_bytes() + release().encode()).hexdigest()[:12]
    here = folder()
    engine, base, services = here / f"engine-{name}", here / f"base-{name}.tar", here / f"services-{name}.tar"
    if not all(path.exists() for path in (engine, base, services)):
        shutil.rmtree(here, ignore_errors=True)
        work = here / "work"
        work.mkdir(parents=True)
        (work / "engine").mkdir()
        unpack_engine(work / "engine")
        make_images(work, base, services)
        (work / "engine").rename(engine)
        shutil.rmtree(work)
    return engine, base, services


if __name__ == "__main__":
    print(made()[0])
