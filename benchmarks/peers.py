"""Real-ESRGAN x4plus beside the shipped models: seconds and operations of the same restored image, on one thread.

An image of 128x128 pixels to 512x512, the protocol of the field, as `omgsr restore --fold` does it, in each model's
own tile. All run in turns in seconds of the processor, so that other work on the machine matters less, and the best of
the repeats counts. Two operations per multiplication: of the peer those of its convolutions, of our models what
torch's counter finds.

    python benchmarks/peers.py [--repeats 3] [--out results/benchmarks]
"""

import argparse
import copy
import time
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from record import best_in_turns, write_record
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from omgsr_lib.data.photos import open_photo, packaged_photos
from omgsr_lib.model import OMGSR
from omgsr_lib.restore.pipeline import restore
from omgsr_lib.restore.prepare import prepare
from omgsr_lib.study.peers import PEERS, SCALE, Peer, operations_per_pixel


MODELS = ("mini-s", "mini-f")
SIDE = 128


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for a JSON file of this run")
    args = parser.parse_args()
    torch.set_num_threads(1)

    image = open_photo(packaged_photos("eval")[0]).resize((SIDE, SIDE), Image.BICUBIC)
    pixels = (SCALE * SIDE) ** 2
    sides, operations = {}, {}
    for name in MODELS:
        model = prepare(OMGSR.from_pretrained(name), fold=True)
        tiles = dict(tile=model.tile, overlap=model.tile // 4)
        sides[name] = partial(restore, model, image, scale=SCALE, progress=False, **tiles)
        countable = copy.deepcopy(model)  # whose linear layers are not packed
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # attention as products
            restore(countable, image, scale=SCALE, progress=False, **tiles)
        operations[name] = counter.get_total_flops() / pixels
    for name in PEERS:
        sides[name] = partial(Peer(name), image)
        operations[name] = operations_per_pixel(name)
    seconds, _ = best_in_turns(sides, args.repeats, clock=time.process_time)
    rows = {
        name: {"seconds_per_megapixel": seconds[name] / pixels * 1e6, "operations_per_pixel": operations[name]}
        for name in sides
    }
    print(f"one thread, best of {args.repeats}; per pixel of the output")
    for name, row in rows.items():
        print(f"{name:20s}{row['seconds_per_megapixel']:8.2f} s/MP{row['operations_per_pixel'] / 1e6:8.3f} MFLOP")
    content = {"repeats": args.repeats, "side": SIDE, "scale": SCALE, "methods": rows}
    write_record(args.out, "peers", content)


if __name__ == "__main__":
    main()
