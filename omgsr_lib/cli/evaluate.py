"""`omgsr evaluate` and `omgsr benchmark`: scores of two folders, and of a public test set."""

from .options import add_command, from_zero, positive


METRICS = "names of metrics, such as lpips_squeeze, gmsd or niqe; an unknown name lists them all"
METRIC_WEIGHTS = "folder with the weights of LPIPS-SqueezeNet and NIQE (default: none, without these metrics)"


def add_commands(commands):
    add_evaluate(commands)
    add_benchmark(commands)


def add_evaluate(commands):
    parser = add_command(
        commands, evaluate, "omgsr evaluate restored references --metrics psnr_y ssim_y gmsd --out scores.csv"
    )
    files = parser.add_argument_group("input and output")
    files.add_argument("restored", help="folder of restored images")
    files.add_argument(
        "reference", nargs="?",
        help="folder of references with the same names (default: none, for metrics without a reference)",
    )  # fmt: skip
    files.add_argument(
        "--out", metavar="CSV", help="file for the scores of each image (default: only the means are printed)"
    )
    files.add_argument(
        "--cache", metavar="DIR",
        help="folder that keeps the scores of each image, from which a stopped evaluation resumes (default: not kept)",
    )  # fmt: skip
    metrics = parser.add_argument_group("metrics")
    metrics.add_argument("--metrics", nargs="+", default=["psnr_y", "ssim_y"], metavar="NAME", help=METRICS)
    metrics.add_argument("--weights", metavar="DIR", help=METRIC_WEIGHTS)
    metrics.add_argument(
        "--conventions", metavar="CSV",
        help="file for PSNR and SSIM of the same images under other conventions (default: not computed)",
    )  # fmt: skip


def evaluate(restored, reference, out, conventions, **options):
    """Score a folder of restored images, with or without references of the same names."""
    from ..metrics.evaluate import evaluate_folder
    from ..utils.files import atomic_write
    from ..utils.processes import first_process

    if conventions and reference is None:
        raise ValueError("--conventions needs references: none were given. Name their folder after the images'.")
    frame = evaluate_folder(restored, reference, progress=True, **options)
    if not first_process():
        return
    if out:
        with atomic_write(out) as part:
            frame.to_csv(part, index=False)
    print(frame.groupby("metric", sort=False)["value"].agg(["mean", "count"]).to_string())
    if conventions:
        from ..metrics.conventions import convention_scores, convention_table

        with atomic_write(conventions) as part:
            convention_table(convention_scores(restored, reference)).to_csv(part, index=False)


def add_benchmark(commands):
    parser = add_command(commands, benchmark, "omgsr benchmark RealSR --data RealSR --models bicubic mini-s")
    files = parser.add_argument_group("input and output")
    files.add_argument("name", help="test set: RealSR, DRealSR, DIV2K-Val, RealLQ250 or RealSet65")
    files.add_argument("--data", required=True, metavar="DIR", help="folder of the test set")
    files.add_argument("--out", default="results/mini/benchmarks", metavar="DIR", help="folder for <name>/scores.csv")
    files.add_argument(
        "--work", default="runs/benchmarks", metavar="DIR", help="folder for the restored images and their scores"
    )
    files.add_argument(
        "--published", metavar="DIR",
        help="folder with published_results.csv, whose rows of this test set appear beside ours (default: none)",
    )  # fmt: skip
    model = parser.add_argument_group("model")
    model.add_argument(
        "--models",
        nargs="+",
        default=["bicubic", "mini-s", "mini-f"],
        metavar="MODEL",
        help="bicubic, model names or folders",
    )
    model.add_argument(
        "--peers", action="store_true", help="score realesrgan-x4plus too, on the CPU; needs the extra peers"
    )
    tiles = parser.add_argument_group("tiles")
    tiles.add_argument(
        "--tile", type=positive, metavar="N",
        help="side in pixels of the output, a multiple of 16 (default: the side that each model restores best with)",
    )  # fmt: skip
    tiles.add_argument(
        "--overlap", type=from_zero, metavar="N",
        help="in pixels of the output, from 0 to less than the tile (default: a quarter of it)",
    )  # fmt: skip
    metrics = parser.add_argument_group("metrics")
    metrics.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help=METRICS + " (default: all that the test set and the weights allow)",
    )
    metrics.add_argument("--weights", metavar="DIR", help=METRIC_WEIGHTS)


def benchmark(name, data, out, models, peers, **options):
    """Restore a public test set with several models and score it."""
    from ..metrics.statistics import summarise
    from ..study.peers import PEERS
    from ..study.test_sets import benchmark

    frame = benchmark(name, data, out, models=[*models, *(PEERS if peers else ())], **options)
    table = summarise(frame).pivot_table(index="method", columns="metric", values="mean", sort=False)
    print(table.round(4).to_string())
