"""The scripts beside run.py, as people call them: a sweep, and what is asked of one of its runs."""

import functools
import json
import shutil
import time

import anndata
import numpy as np
import pandas as pd
import pytest

from tests.experiments.scripts import CONFIG, call, call_process

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "tiny.py").write_text(CONFIG)
    printed = call("sweep.py", f"--config={folder / 'tiny.py'}", f"--workdir={folder / 'runs'}")
    return folder, printed


def test_a_sweep_ranks_its_points_on_validation_conditions(sweep):
    folder, printed = sweep
    table = pd.read_csv(folder / "runs" / "sweep.csv")
    assert sorted(table["fit.latent_dim"]) == [1, 2] and table["validation_share"].is_monotonic_increasing
    assert "validation_share" in printed
    for latent_dim in (1, 2):
        run = folder / "runs" / f"fit.latent_dim={latent_dim}"
        assert f'"latent_dim": {latent_dim},' in (run / "config.json").read_text()
        assert not (run / "evaluation.csv").exists()  # nothing was looked up on the test conditions
    best = table["fit.latent_dim"][0]
    winner = json.loads((folder / "runs" / "winner" / "config.json").read_text())["identity"]
    assert winner["recipe"]["latent_dim"] == best
    own = json.loads((folder / "runs" / f"fit.latent_dim={best}" / "config.json").read_text())["identity"]
    assert winner["key"] != own["key"] and winner["data"] == own["data"]
    assert set(pd.read_csv(folder / "runs" / "winner" / "evaluation.csv")["split"]) >= {"test"}
    assert "fit.latent_dim" in (folder / "runs" / "sweep.md").read_text()


def test_a_sweep_goes_on_and_one_program_gives_its_numbers(sweep, tmp_path):
    folder, _ = sweep
    table = pd.read_csv(folder / "runs" / "sweep.csv")
    began = (folder / "runs" / "fit.latent_dim=1" / "metrics.jsonl").stat().st_mtime_ns
    arguments = [f"--config={folder / 'tiny.py'}", "--nowinner"]
    call("sweep.py", *arguments, f"--workdir={folder / 'runs'}")
    assert (folder / "runs" / "fit.latent_dim=1" / "metrics.jsonl").stat().st_mtime_ns == began
    pd.testing.assert_frame_equal(pd.read_csv(folder / "runs" / "sweep.csv"), table)
    call("sweep.py", *arguments, f"--workdir={tmp_path}", "--launcher=population")
    together = pd.read_csv(tmp_path / "sweep.csv")
    assert together["fit.latent_dim"].tolist() == table["fit.latent_dim"].tolist()
    np.testing.assert_allclose(together["validation_share"], table["validation_share"], rtol=1e-3)
    watched = call_process("watch.py", f"--workdir={tmp_path}", "--once")
    assert "2 finished" in watched and f"best so far: fit.latent_dim={table['fit.latent_dim'][0]}" in watched


def test_results_of_other_settings_are_not_taken_for_those_of_a_sweep(sweep):
    folder, _ = sweep
    arguments = [f"--config={folder / 'tiny.py'}", f"--workdir={folder / 'runs'}", "--config.fit.num_steps=4"]
    assert "holds a point of another config" in call("sweep.py", *arguments, status=1)


def test_a_prediction_is_written_once(sweep, tmp_path):
    folder, _ = sweep
    out = tmp_path / "new" / "predicted.h5ad"
    arguments = [f"--workdir={folder / 'runs' / 'fit.latent_dim=2'}", "--num_samples=30", f"--out={out}"]
    printed = call("predict.py", *arguments, "--label=p0+p2", "--label=p1:0.5")
    assert "p0+p2: " in printed and "Assumption tested on 1 left-out" in printed
    adata = anndata.read_h5ad(out)
    assert adata.obs["condition"].value_counts().to_dict() == {"p0+p2": 30, "p1:0.5": 30}
    before = out.read_bytes()
    assert "nothing is overwritten" in call("predict.py", *arguments, "--label=p0", status=1)
    assert out.read_bytes() == before


def test_check_lists_the_doubles_that_were_not_trained_on(sweep):
    folder, _ = sweep
    trained = call("check.py", f"--workdir={folder / 'runs' / 'fit.latent_dim=2'}").splitlines()
    designed = call_process("check.py", f"--config={folder / 'tiny.py'}").splitlines()
    for lines in (trained, designed):
        assert [line.split(":")[0] for line in lines] == ["p0+p2", "p1+p2", "2 labels"]
    assert designed[-1] == "2 labels: 2 identified"


def test_time_to_quality_stops_the_clock_while_it_judges():
    from experiments.benchmarks import time_to_quality as bench

    def measured(**limits):
        distances = iter([0.4, 0.2, 0.1, 0.05])
        advance = functools.partial(next, iter([1] * 100))
        contender = bench.Contender(advance, lambda x, label: x)
        return bench.measure(lambda: contender, lambda _: time.sleep(0.1) or next(distances), **limits)

    begin = time.perf_counter()
    points = measured(target=0.1)
    assert time.perf_counter() - begin > 0.3 and points[-1].seconds < 0.1
    assert [p.energy_distance for p in points] == [0.4, 0.2, 0.1] and points[-1].step == 3
    assert measured(max_steps=2)[-1].step == 2
    curves = {"ours": [bench.Point(2.0, 1, 0.04)], "pytorch": [bench.Point(60.0, 1, 0.3), bench.Point(90.0, 2, 0.1)]}
    assert bench.ratio_of(curves, 0.05, "pytorch") == (45.0, True)
    assert bench.ratio_of(curves, 0.3, "pytorch") == (30.0, False)


def test_grouped_pytorch_is_the_published_loss():
    torch = pytest.importorskip("torch")
    from experiments.benchmarks import torch_reference as reference

    torch.manual_seed(0)
    networks = reference.make_networks(reference.Setting(3, 2, 2, 0, (8,), (8,)))
    x, labels = torch.randn(40, 3), torch.randint(0, 2, (40, 2)).float()
    losses = [make(*networks)(x, labels) for make in (reference.make_loss, reference.make_grouped_loss)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
    gradients = [torch.autograd.grad(loss, networks.shift)[0] for loss in losses]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_the_pytorch_reference_learns_and_leaves_the_random_state_alone():
    torch = pytest.importorskip("torch")
    from experiments.benchmarks import torch_reference as reference

    torch.set_num_threads(1)  # threads that wait for a busy core take thirty times as long
    torch.manual_seed(0)
    setting = reference.Setting(2, 1, 1, 1, (16,), (16,))
    networks = reference.make_networks(setting)
    labels = (torch.arange(400) % 2)[:, None].float()
    x = torch.randn(400, 2) + 3 * labels
    step = reference.make_step(networks, x, labels, 16)
    first = sum(float(step()) for _ in range(20))
    for _ in range(260):
        step()
    assert sum(float(step()) for _ in range(20)) < 0.7 * first
    before = torch.get_rng_state()
    moved = reference.translate(networks, x[labels[:, 0] == 0], torch.ones(1))
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(moved.mean(0), torch.full((2,), 3.0), atol=1.0, rtol=0)


def test_a_run_is_reproduced_from_its_folder(sweep, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(sweep[0] / "runs" / "winner", run)
    printed = call("reproduce.py", run)
    assert "parameters: the same bits" in printed and printed.endswith("\nreproduced\n")
    assert "largest difference 0 of the control's" in printed
    table = pd.read_csv(run / "evaluation.csv")
    table["value"] *= 1.01
    table.to_csv(run / "evaluation.csv", index=False)
    printed = call("reproduce.py", run, status=1)  # a model of the same bits that is judged otherwise
    assert "parameters: the same bits" in printed and "\nNOT reproduced\n" in printed
    record = json.loads((run / "config.json").read_text())
    record["identity"]["data"]["train"] = "0" * 64
    (run / "config.json").write_text(json.dumps(record))
    assert "config.json was changed" in call("reproduce.py", run, status=1)
