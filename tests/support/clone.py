"""A fresh clone of this checkout, set up as `make` sets it up but without downloading anything."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.support.processes import ROOT

_LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".wald", "__pycache__", "*.egg-info", ".*_cache")
_COMMAND = """#!{python}
import sys
from app.cli.main import main
if __name__ == '__main__':
    sys.exit(main())
"""


def fresh_clone(folder: Path) -> Path:
    """The files that git would give, and a virtual environment in which `wald` runs the clone's code."""
    clone = folder / "wald"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if files.returncode == 0:
        for name in files.stdout.decode().split("\0"):
            if name and (ROOT / name).is_file():
                (clone / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, clone / name)
    else:  # not a git checkout, as in an unpacked archive
        shutil.copytree(ROOT, clone, ignore=_LEFT_OUT)
    environment = clone / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    packages = next(environment.glob("lib/python*/site-packages"))
    # The clone comes first, then the packages that are installed already; their own .pth files are not read.
    (packages / "clone.pth").write_text(f"{clone}\n{sysconfig.get_paths()['purelib']}\n")
    command = environment / "bin" / "wald"
    command.write_text(_COMMAND.format(python=environment / "bin" / "python"))
    command.chmod(0o755)
    (environment / ".installed").touch()  # what `make` looks at
    return clone
