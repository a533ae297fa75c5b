r"""Energy distance of two samples, ours and other libraries: time, peak memory and accuracy, in one run.

    python experiments/benchmarks/two_sample.py
    python experiments/benchmarks/two_sample.py --sizes=1000,4000 --dims=10 --methods=ours,torch_gram --budget_s=5

``forward`` is the value :math:`2\,E\|X-Y\| - E\|X-X'\| - E\|Y-Y'\|` of n rows each, in float32; ``gradient`` is the
value with its gradient with respect to x, for libraries that have one. All are means over all pairs (V form) except
ours, the unbiased U form of the same cost. `two_sample_methods` shows how each library is called.

Each (method, n, d) is measured in a process of its own, in two rounds over all methods, of which the faster counts.
``ms`` is the fastest of five calls (more if short, fewer if
the budget is spent) after one that is not counted: it compiles. ``peak_mb`` is the most memory in use up to the end of
the mode, forward first, less what was in use when the library was imported, the samples made and one call at n = 64
done: resident memory, on a GPU that of the device; compiling for n rows counts. ``relative_error`` is that of the
value, to NumPy in float64, for n <= 4000.

Use an idle machine: with one of two cores busy, short calls of PyTorch took fifty times as long, ours twice.

The rate to measure against is the best of NumPy, PyTorch and JAX at a float32 product of 2048 x 1000 x 2048, before and
after all else. The fraction of it that ours achieves counts only products that an exact method cannot do without. All
else is loss: square roots, recomputed tiles, a symmetric matrix computed whole.

    forward   2 n m d for the cross distances, n^2 d and m^2 d for half of each symmetric matrix
    gradient  the same, and sums over j of w_ij (x_i - y_j), w_ij = 1 / |x_i - y_j|: a product [n, m] [m, d] of 2 n m d,
              and one [n, n] [n, d] of 2 n^2 d for the self term (its weights are symmetric, but each is used twice)

At few features that says little: the square roots, one a pair, take most of the time.
"""

import csv
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np
from absl import app, flags

from experiments.benchmarks.two_sample_methods import METHODS, missing_packages, product_call

SIZES = flags.DEFINE_list("sizes", ["1000", "4000", "16000", "100000"], "rows of each sample")
DIMS = flags.DEFINE_list("dims", ["2", "10", "50", "1000"], "features")
CHOSEN = flags.DEFINE_list("methods", list(METHODS), "methods")
BUDGET = flags.DEFINE_float("budget_s", 20.0, "calls estimated to take longer are skipped; repeats stop after as much")
MEMORY = flags.DEFINE_float("memory_gb", 8.0, "calls estimated to need more memory are skipped")
OUT = flags.DEFINE_string("out", "runs/bench/two_sample.csv", "table, one line per method, n, d and mode")
CHILD = flags.DEFINE_string("child", "", "used by the script itself: what a child process measures, as JSON")

Row = dict[str, Any]
COLUMNS: tuple[str, ...] = ("method", "n", "d", "mode", "ms", "peak_mb", "relative_error", "status")
MARK = "row: "  # of a child's own lines; libraries print too
MODES = ("forward", "gradient")
WARM_UP_ROWS = 64
REPEATS = 5
ROUNDS = 2  # over all methods of an n and d: what else runs meanwhile hits all of them
SHORT_S = 0.5  # short calls are repeated for so long: on a busy machine five are too few
REFERENCE_ROWS = 4000  # the reference in float64 goes no further
MATRIX_ROWS = 4000  # from here on the distance matrices dominate the measured memory
PRODUCT = (2048, 1000, 2048)


def samples(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Two normal samples, 0.2 apart in every feature."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((n, d), dtype=np.float32) for _ in range(2))
    y += np.float32(0.2)
    return x, y


# --- in a child process --------------------------------------------------------------------------------------------


def fastest_ms(call: Callable[[], Any], budget_s: float) -> float:
    """The fastest of `REPEATS` calls, of more when they are short, of fewer when `budget_s` is spent."""
    times = []
    while sum(times) < (budget_s if len(times) < REPEATS else SHORT_S):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1e3 * min(times)


def reset_host_peak() -> None:
    """From now on the peak is that of the calls to come (Linux)."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def host_peak_mb() -> float:
    """Most resident memory since `reset_host_peak`."""
    status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e6


def measure_cell(method: str, n: int, d: int, modes: list[str], budget_s: float) -> None:
    """Print one row per mode; `value` takes the place of its error."""
    tiny, calls = (METHODS[method].make(*samples(rows, d)) for rows in (WARM_UP_ROWS, n))
    for mode in modes:
        getattr(tiny, mode)()
    peak_mb = calls.device_peak_mb or host_peak_mb
    reset_host_peak()
    before = peak_mb()
    for mode in modes:
        call = getattr(calls, mode)
        value = call()
        ms = fastest_ms(call, budget_s)
        print(MARK + json.dumps({"mode": mode, "ms": ms, "peak_mb": peak_mb() - before, "value": value}), flush=True)


def measure_product(package: str) -> None:
    """Print the time of one product of `PRODUCT` in float32."""
    n, d, m = PRODUCT
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape, dtype=np.float32) for shape in ((n, d), (d, m)))
    call, device = product_call(package, a, b)
    call()
    print(MARK + json.dumps({"ms": min(fastest_ms(call, 1.0) for _ in range(3)), "device": device}), flush=True)


# --- in the parent -------------------------------------------------------------------------------------------------


def run_child(work: Row, timeout_s: float) -> tuple[list[Row], str]:
    """The rows that a child printed, and what ended it when it was not done."""
    command = [sys.executable, __file__, f"--child={json.dumps(work)}"]
    error = ""
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
        output = done.stdout
        if done.returncode < 0:
            error = f"killed by signal {-done.returncode}"
        elif done.returncode:
            lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
            error = lines[-1].strip()[:200] if lines else f"exit status {done.returncode}"
    except subprocess.TimeoutExpired as expired:
        output, error = expired.stdout or b"", f"no end after {timeout_s:.0f} s"
    lines = output.decode(errors="replace").splitlines()
    return [json.loads(line.removeprefix(MARK)) for line in lines if line.startswith(MARK)], error


def reference_values(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Energy distance in both forms, in float64, some rows at a time."""
    centre = x.mean(0, dtype=np.float64)
    x, y = x - centre, y - centre

    def total(a: np.ndarray, b: np.ndarray) -> float:
        size_a, size_b, result = (a**2).sum(1), (b**2).sum(1), 0.0
        for start in range(0, len(a), 500):
            rows = slice(start, start + 500)
            sq = size_a[rows, None] + size_b - 2 * a[rows] @ b.T
            if a is b:
                np.fill_diagonal(sq[:, start:], 0)
            result += np.sqrt(np.maximum(sq, 0)).sum()
        return result

    n, m = len(x), len(y)
    cross, within_x, within_y = total(x, y) / (n * m), total(x, x) / n, total(y, y) / m
    return {"V": 2 * cross - within_x / n - within_y / m, "U": 2 * cross - within_x / (n - 1) - within_y / (m - 1)}


def reason_to_skip(method: str, n: int, d: int, mode: str, rows: list[Row]) -> str | None:
    """Why a call should not be started, judged by the same method's calls at smaller n and d."""
    smaller = [
        row for row in rows if (row["method"], row["mode"]) == (method, mode) and row["n"] <= n and row["d"] <= d
    ]
    if any(row["status"].startswith("failed") for row in smaller):
        return "failed at a smaller size"
    done = [row for row in smaller if row["status"] == "ok"]
    seconds = min((1e-3 * row["ms"] * (n / row["n"]) ** 2 * d / row["d"] for row in done), default=0.0)
    if seconds > BUDGET.value:
        return f"would take up to about {seconds:.0f} s"
    guess = (METHODS[method].bytes_per_pair + METHODS[method].bytes_per_difference * d) * n**2 / 1e9
    if guess:
        matrices = [row for row in done if row["d"] == d and row["n"] >= MATRIX_ROWS]
        gigabytes = min((1e-3 * row["peak_mb"] * (n / row["n"]) ** 2 for row in matrices), default=guess)
        if gigabytes > MEMORY.value:
            return f"would need about {gigabytes:.0f} GB"
    return None


def cell_rows(method: str, n: int, d: int, rows: list[Row], reference: dict[str, float]) -> list[Row]:
    """Measure and print a method at one n and d: one row per mode, with the reason where there is no time."""
    statuses = {}
    for mode in MODES[: 1 + METHODS[method].has_gradient]:
        reason = reason_to_skip(method, n, d, mode, rows)
        statuses[mode] = f"skipped: {reason}" if reason else ""
        if missing := missing_packages(METHODS[method]):
            statuses[mode] = f"not installed: {' '.join(missing)}"
    modes = [mode for mode, status in statuses.items() if not status]
    printed, error = [], ""
    if modes:
        work = {"method": method, "n": n, "d": d, "modes": modes, "budget_s": BUDGET.value}
        printed, error = run_child(work, timeout_s=240 + 8 * BUDGET.value)
    measured = {row["mode"]: row for row in printed}
    result = []
    for mode, status in statuses.items():
        row = {"method": method, "n": n, "d": d, "mode": mode, "status": status or f"failed: {error}"}
        if mode in measured:
            ms, peak_mb, value = (measured[mode][key] for key in ("ms", "peak_mb", "value"))
            row |= {"ms": round(ms, 3), "peak_mb": round(peak_mb, 1), "status": "ok"}
            if reference:
                true = reference[METHODS[method].form]
                row["relative_error"] = float(f"{abs(value - true) / abs(true):.1e}")
        print("  ".join(f"{key}={row[key]}" for key in COLUMNS if key in row), flush=True)
        result.append(row)
    return result


def fastest_row(rows: Sequence[Row]) -> Row:
    """Of the rounds of one mode."""
    return min(rows, key=lambda row: row.get("ms", float("inf")))


def product_rows() -> list[Row]:
    """Time and print a matrix product by each library."""
    n, d, _ = PRODUCT
    rows = []
    for package in ("numpy", "torch", "jax"):
        printed, error = run_child({"product": package}, timeout_s=120)
        row = {"method": f"{package}_matmul", "n": n, "d": d, "mode": "matmul", "status": f"failed: {error}"}
        if printed:
            row |= {"ms": round(printed[0]["ms"], 3), "status": "ok"}
            print(f"{package}: {product_rate(row) / 1e9:.0f} GF/s on {printed[0]['device']}", flush=True)
        rows.append(row)
    return rows


def product_rate(row: Row) -> float:
    """Floating-point operations a second of one of `product_rows`."""
    n, d, m = PRODUCT
    return 2 * n * d * m / (1e-3 * row["ms"])


def best_rate(rows: list[Row]) -> float:
    """The rate of the fastest library."""
    return max(product_rate(row) for row in rows if row["status"] == "ok")


def rate_lines(rates: list[float], load: float) -> list[str]:
    """The rate before and after all else, and a warning when something else was running."""
    before, after = (f"{rate / 1e9:.0f}" for rate in rates)
    lines = [f"matrix product: {before} GF/s before, {after} after; {os.cpu_count()} CPU cores; fraction = share of it"]
    if load > 0.5 or min(rates) < 0.8 * max(rates):
        lines.append(f"WARNING: the machine was busy (load {load:.1f} at the start): measure again on an idle one.")
    return lines


def needed_flops(n: int, m: int, d: int, mode: str) -> float:
    """Operations of the products in the module docstring."""
    forward = 2 * n * m * d + n**2 * d + m**2 * d
    return forward if mode == "forward" else forward + 2 * n * m * d + 2 * n**2 * d


def summary(rows: list[Row], rate: float) -> list[str]:
    """Ours and the fastest other method per mode, n and d."""
    measured = [row for row in rows if row["status"] == "ok" and row["mode"] in MODES]
    ours = {(row["mode"], row["d"], row["n"]): row for row in measured if row["method"] == "ours"}
    lines = [
        f"{'mode':8} {'d':>5} {'n':>7} {'ours ms':>10} {'best other':>10}  {'which':19} {'ratio':>6}"
        f" {'ours MB':>8} {'other MB':>8} {'fraction':>8}"
    ]
    for mode, d, n in sorted({(row["mode"], row["d"], row["n"]) for row in measured}):
        others = [row for row in measured if (row["mode"], row["d"], row["n"]) == (mode, d, n)]
        other = min(
            (row for row in others if not row["method"].startswith("ours")), key=lambda row: row["ms"], default=None
        )
        mine = ours.get((mode, d, n))
        ratio = f"{other['ms'] / mine['ms']:.2f}" if mine and other else "-"
        fraction = f"{needed_flops(n, n, d, mode) / (1e-3 * mine['ms']) / rate:.1%}" if mine else "-"
        ours_ms, ours_mb = (f"{mine['ms']:.1f}", f"{mine['peak_mb']:.0f}") if mine else ("-", "-")
        name, other_ms, other_mb = (
            (other["method"], f"{other['ms']:.1f}", f"{other['peak_mb']:.0f}") if other else ("-", "-", "-")
        )
        lines.append(
            f"{mode:8} {d:5} {n:7} {ours_ms:>10} {other_ms:>10}  {name:19} {ratio:>6}"
            f" {ours_mb:>8} {other_mb:>8} {fraction:>8}"
        )
    return lines


def version_lines(methods: list[str], rows: list[Row]) -> list[str]:
    """Versions of what was compared, and which methods could not be run at all."""
    packages = sorted({package for name in methods for package in METHODS[name].packages})
    missing = {package for name in methods for package in missing_packages(METHODS[name])}
    lines = ["versions: " + ", ".join(f"{name} {metadata.version(name)}" for name in packages if name not in missing)]
    for name in methods:
        statuses = [row["status"] for row in rows if row["method"] == name]
        if "ok" not in statuses:
            lines.append(f"{name} did not run: {statuses[0]}")
    return lines


def main(_):
    if CHILD.value:
        work = json.loads(CHILD.value)
        return measure_product(work["product"]) if "product" in work else measure_cell(**work)
    if unknown := set(CHOSEN.value) - set(METHODS):
        raise app.UsageError(f"No methods {sorted(unknown)}. Pass --methods=<some of {','.join(METHODS)}>.")
    load = os.getloadavg()[0]  # of the last minute
    path = pathlib.Path(OUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS)
        writer.writeheader()

        def keep(new: list[Row]) -> list[Row]:
            writer.writerows(new)
            file.flush()
            return new

        rows, rates = [], []
        rates.append(best_rate(keep(product_rows())))
        for d in sorted(map(int, DIMS.value)):
            for n in sorted(map(int, SIZES.value)):
                reference = reference_values(*samples(n, d)) if n <= REFERENCE_ROWS else {}
                rounds = [[cell_rows(method, n, d, rows, reference) for method in CHOSEN.value] for _ in range(ROUNDS)]
                for cells in zip(*rounds, strict=True):
                    rows += keep([fastest_row(pair) for pair in zip(*cells, strict=True)])
        rates.append(best_rate(keep(product_rows())))
    print("\n" + "\n".join(rate_lines(rates, load) + summary(rows, max(rates)) + version_lines(CHOSEN.value, rows)))
    print(f"table in {path}")


if __name__ == "__main__":
    app.run(main)
