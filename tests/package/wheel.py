"""Try a wheel where nothing else is: `python tests/package/wheel.py dist/*.whl`, the end of `make dist`.

A virtual environment gets the wheel and what it declares, at the versions of requirements.txt, and runs the README's
first example, then a save and a load, far from the checkout.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from email.parser import BytesParser
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

SAVE_AND_LOAD = """
import sys
assert einet.__file__.startswith(sys.prefix), einet.__file__
einet.save(model, "model.safetensors")
assert torch.equal(einet.load("model.safetensors")(x), model(x))
"""


def declared(wheel: Path) -> list[str]:
    """The names that the wheel requires; ValueError where it lacks a file, or the README as its description."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        package = [f for f in (ROOT / "einet").rglob("*") if f.is_file() and "__pycache__" not in f.parts]
        missing = sorted({f.relative_to(ROOT).as_posix() for f in package} - names)
        if missing:
            raise ValueError(f"{wheel.name} lacks {', '.join(missing)}")
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        message = BytesParser().parsebytes(archive.read(metadata))
    if message.get_payload(decode=True).decode().strip() != README.strip():
        raise ValueError(f"the description of {wheel.name} is not README.md")
    required = [text for text in message.get_all("Requires-Dist") if "extra ==" not in text]
    return [re.match(r"[\w.-]+", text)[0] for text in required]


def pins(names: list[str]) -> list[str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.partition("==")[0] in names]


def main(wheel: Path) -> None:
    pinned = pins(declared(wheel))
    example = re.search(r"^```python\n(.*?)^```", README, re.M | re.S)[1]
    with tempfile.TemporaryDirectory(prefix="einet-wheel-") as folder:
        subprocess.run([sys.executable, "-m", "venv", f"{folder}/venv"], check=True)
        python = f"{folder}/venv/bin/python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel.resolve()), *pinned], check=True)
        subprocess.run([python, "-I", "-c", example + SAVE_AND_LOAD], cwd=folder, check=True)
    print(f"{wheel.name} works with {', '.join(pinned)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
