#!/usr/bin/env bash
# pertpy 1.0.3 cannot be imported right after its installation, nor with statsmodels 0.15.
#
# Guess: pip install pertpy gives a package that can be imported; its dependencies are declared, with bounds where
# they are needed.
# Found: it imports filelock, which nothing that it requires brings along any more, and a name from
# statsmodels.sandbox that statsmodels 0.15 has taken away. Install filelock and statsmodels 0.14.6 beside it.
# Versions: pertpy 1.0.3, statsmodels 0.15.0, Python 3.11.
# Output seen:
#   as installed:              ModuleNotFoundError: No module named 'filelock'
#   with filelock:             ImportError: cannot import name 'multipletests'
#   with statsmodels 0.14.6:   imported
# Source: scverse/pertpy, pertpy/data/_dataloader.py and pertpy/tools/_dialogue.py, against its pyproject.toml.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile pertpy==1.0.3 statsmodels==0.15.0

try() { venv/bin/python -W ignore -c "import pertpy" 2>&1 | tail -n 1 || true; }
first=$(try)
echo "as installed:              $first"
venv/bin/pip install --quiet --no-compile filelock==4.2.11
second=$(try)
echo "with filelock:             ${second%% from *}"
venv/bin/pip install --quiet --no-compile statsmodels==0.14.6
third=$(try)
echo "with statsmodels 0.14.6:   ${third:-imported}"
[[ $first == *"No module named 'filelock'"* && $second == *"cannot import name 'multipletests'"* && -z $third ]]
