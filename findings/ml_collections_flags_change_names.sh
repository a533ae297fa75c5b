#!/usr/bin/env bash
# Flags of a ml_collections config turn names of conditions into numbers, into one name, or into the text "None".
#
# Guess: a field that holds a tuple of strings takes strings: --config.test=101 is the guide "101", A,B are two
# names, and None clears a field.
# Found: the value of a tuple field is read as a Python literal and kept as a string only where that fails, so 101
# is an integer, 5e3,2e1 two floats and 1_000 one thousand, while A+B,A+C is one name with a comma. None given to a
# placeholder of str is the text 'None', and given to one of tuple it is (None,). Nothing is said.
# Versions: ml-collections 1.1.0, absl-py 2.5.1, Python 3.11.
# Output seen:
#   101          -> (101,)
#   5e3,2e1      -> (5000.0, 20.0)
#   1_000        -> (1000,)
#   A+B,A+C      -> ('A+B,A+C',)
#   'A+B','A+C'  -> ('A+B', 'A+C')
#   donor=None   -> 'None'
#   hold=None    -> (None,)
# Source: google/ml_collections, ml_collections/config_flags/tuple_parser.py (ast.literal_eval, and the whole text
# as one element where it raises).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile ml-collections==1.1.0 absl-py==2.5.1
venv/bin/python -W ignore - <<'PY'
import pathlib
import sys

from absl import flags
from ml_collections import config_flags

pathlib.Path("config.py").write_text('''
from ml_collections import ConfigDict, config_dict
def get_config():
    return ConfigDict({"test": ("A",), "donor": config_dict.placeholder(str), "hold": config_dict.placeholder(tuple)})
''')


def read(field, text):
    holder = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=holder)
    sys.argv = ["program", "--config=config.py", f"--config.{field}={text}"]  # read when the flag is parsed
    holder(sys.argv)
    return config.value[field]


expected = {
    "101": (101,), "5e3,2e1": (5000.0, 20.0), "1_000": (1000,), "A+B,A+C": ("A+B,A+C",), "'A+B','A+C'": ("A+B", "A+C"),
}
for text, value in expected.items():
    found = read("test", text)
    print(f"{text:12} -> {found}")
    assert repr(found) == repr(value)
for field, value in (("donor", "None"), ("hold", (None,))):
    found = read(field, "None")
    print(f"{field}=None".ljust(12), "->", repr(found))
    assert found == value
PY
