# `python -m launch.train` puts the working folder first in the import path, and a user's `pipeline.py` or `torch.py`
# there would be executed instead of ours. While Python looks for such a module, argv[0] is "-m".
import os.path
import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    _here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.realpath(sys.path[0]) != os.path.realpath(_here):  # in a checkout the code is found by it
        del sys.path[0]
