"""How long the command and the library take before they compute, against Python's own start and `import torch`.

Processes of their own, interleaved, the fastest of the repeats, in seconds of the clock on the wall. The first picture
is 64 pixels to 256, restored by the command with a precision that was measured before. Most of its time is the import
of diffusers' networks, which brings transformers and peft along: "picture beyond diffusers" is what remains.

    python benchmarks/start_up.py [--repeats 3] [--out results/benchmarks]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from record import best_in_turns, write_record

from omgsr_lib.data.photos import open_photo, packaged_photos


NAMES = "from omgsr_lib import OMGSR, NoiseSchedule, evaluate_folder, latent_gap, prepare, restore, snr_mid_timestep"
NETWORKS = "import omgsr_lib; from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel"
GOALS = {"omgsr --help": 0.5, "omgsr --version": 0.5, "wrong option": 0.5, "import beyond torch": 0.6, "picture": 6.0}


def run(*arguments, code=0):
    """A function that runs Python with `arguments`, which must end with `code`."""

    def function():
        found = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
        if found.returncode != code:
            sys.exit(f"{' '.join(arguments)} must end with {code}: got {found.returncode}. {found.stderr}")

    return function


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for a JSON file of this run")
    args = parser.parse_args()
    command = ("-m", "omgsr_lib.cli")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        open_photo(packaged_photos("eval")[0]).resize((64, 64), Image.BICUBIC).save(picture)
        restoring = (*command, "restore", str(picture), "--out", str(Path(folder) / "restored"), "--force")
        sides = {
            "python": run("-c", "pass"),
            "import torch": run("-c", "import torch"),
            "import omgsr_lib": run("-c", "import omgsr_lib"),
            "import of all names": run("-c", NAMES),
            "import diffusers": run("-c", NETWORKS),
            "omgsr --help": run(*command, "--help"),
            "omgsr --version": run(*command, "--version"),
            "wrong option": run(*command, "restore", "photo.png", "--nonsense", code=2),
            "picture": run(*restoring),
        }
        seconds, _ = best_in_turns(sides, args.repeats)
    beyond = max(seconds[name] for name in ("import omgsr_lib", "import of all names")) - seconds["import torch"]
    seconds["import beyond torch"] = beyond
    seconds["picture beyond diffusers"] = seconds["picture"] - seconds["import diffusers"]
    for name, value in seconds.items():
        print(f"{name:26s}{value:7.2f} s" + (f"   goal {GOALS[name]}" if name in GOALS else ""))
    write_record(args.out, "start_up", {"repeats": args.repeats, "seconds": seconds, "goals": GOALS})
    missed = [name for name, goal in GOALS.items() if seconds[name] > goal]
    if missed:
        sys.exit(f"Slower than the goal: {', '.join(missed)}.")


if __name__ == "__main__":
    main()
