"""Compiled programs are kept on disk, and a second process finds them."""

import os
import subprocess
import sys

import pytest

CODE = """
import sys, time, jax, jax.numpy as jnp, pdae_jax
print(pdae_jax.cache_compilations(sys.argv[1] or None))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # small programs compile fast
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
f = jax.jit(lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c @ c), None), x, None, length=9)[0])
for _ in range(3):
    f = jax.jit(jax.grad(lambda x, f=f: jnp.sum(f(x) ** 2)))
    f(jnp.ones((5, 5)))
    f = lambda x, g=f: jnp.sum(g(x))[None, None] * x
print(sum(name == "/jax/compilation_cache/cache_hits" for name in hits))
"""


def run(folder, code=CODE, **environment):
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    env |= {"JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, env=env, check=True)
    path, hits = done.stdout.split()
    return path, int(hits)


@pytest.mark.slow
def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    folder = str(tmp_path / "compiled")
    assert run(folder) == (folder, 0)
    path, hits = run(folder)
    assert path == folder and hits >= 1


def test_a_folder_that_was_given_stays(tmp_path):
    given = str(tmp_path / "given")
    assert run("", JAX_COMPILATION_CACHE_DIR=given)[0] == given


def test_the_address_of_a_bucket_stays_what_it_is(tmp_path, monkeypatch):
    code = "import os, sys, jax, pdae_jax; pdae_jax.cache_compilations();"
    code += "print(jax.config.jax_compilation_cache_dir, len(os.listdir()))"
    monkeypatch.chdir(tmp_path)
    assert run("", code=code, JAX_COMPILATION_CACHE_DIR="gs://bucket/programs/") == ("gs://bucket/programs/", 0)


def test_the_default_is_the_cache_of_the_user(tmp_path):
    assert run("", XDG_CACHE_HOME=str(tmp_path))[0] == str(tmp_path / "pdae_jax" / "compiled")


FIT = """
import jax, jax.numpy as jnp
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name.rsplit("/", 1)[-1]))
jax.jit(lambda x: x + 1)(jnp.ones(2))  # programs of the user, before the library is asked for anything
import pdae_jax
data = pdae_jax.from_arrays(jnp.arange(24.0).reshape(8, 3) % 5, conditions=["ctrl", "A"] * 4, control="ctrl")
pdae_jax.fit(
    data, key=jax.random.key(0), latent_dim=1, num_steps=1, log_every=1, eval_every=1, checkpoint_every=1, hidden=(4,)
)
print(jax.config.jax_compilation_cache_dir or "none", hits.count("cache_hits"))
"""


@pytest.mark.slow
def test_a_fit_keeps_its_programs_unless_it_is_told_not_to(tmp_path):
    folder = tmp_path / "pdae_jax" / "compiled"

    def found(**environment):
        path, hits = run("", code=FIT, XDG_CACHE_HOME=str(tmp_path), **environment)
        return path, hits, len(list(folder.glob("*"))) if folder.exists() else 0

    assert found(PDAE_COMPILATION_CACHE="off") == ("none", 0, 0)
    path, hits, files = found()
    assert path == str(folder) and hits == 0 and files > 10  # small programs, too
    assert found()[1] >= 5
    given, chosen = tmp_path / "given", tmp_path / "chosen"
    assert found(JAX_COMPILATION_CACHE_DIR=str(given)) == (str(given), 0, files)
    assert len(list(given.glob("*"))) > 5
    assert found(PDAE_COMPILATION_CACHE=str(chosen))[0] == str(chosen)
