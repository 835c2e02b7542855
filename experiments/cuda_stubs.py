"""Stand-ins for CUDA's libraries: a torch that was built for GPUs, imported where only CPUs will be asked.

PyPI's torch for Linux wants gigabytes of libraries beside it, which a test on a CPU never calls, but does not start
without their files. Each file made here has the names that torch looks up; whatever is called says "no device" (100).
Needs gcc and binutils.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

NO_DEVICE = 100  # cudaErrorNoDevice
LIBRARY, NAME = r"lib(?:cu|nv|nccl)\w*\.so\.\d+", r"_{0,2}(?:cu|nv|nccl)\w+"


def make_stubs(torch_libraries: Path, folder: Path) -> None:
    """Write into `folder` a file for every CUDA library that those of torch name and that is not among them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [str(file) for file in torch_libraries.glob("*.so*")]
    libraries = set(re.findall(rf"\[({LIBRARY})\]", output("readelf", "-d", *files)))
    names: dict[str, str] = {}  # with the version of each, where it has one
    for line in output("nm", "-D", "--undefined-only", *files).splitlines():
        name, _, version = line.split()[-1].partition("@") if line.strip() else ("", "", "")
        if re.fullmatch(NAME, name):
            names[name] = version or names.get(name, "")
    code, versions = folder / "stubs.c", folder / "versions"
    code.write_text("".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in sorted(names)))
    versions.write_text(version_script(names))
    for library in sorted(libraries - {file.name for file in torch_libraries.iterdir()}):
        flags = ["-shared", "-fPIC", "-fno-builtin", "-w", f"-Wl,-soname,{library}", f"-Wl,--version-script,{versions}"]
        output("gcc", *flags, "-o", str(folder / library), str(code))


def version_script(names: dict[str, str]) -> str:
    """For the linker: the version of each name. The loader refuses a file that lacks one that it is asked for."""
    return "".join(
        f"{version} {{ global: {' '.join(f'{name};' for name in names if names[name] == version)} }};\n"
        for version in sorted(set(names.values()) - {""})
    )


def output(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
