"""Where torch is not installed: every command explains itself, and the manifests and the store can be read."""

import importlib.util
import subprocess
import sys
from pathlib import Path

assert importlib.util.find_spec("torch") is None, "this check is for environments without torch"
bin_folder = Path(sys.executable).parent
for command in ("amma-manifest", "amma-featurize", "amma-train", "amma-eval"):
    subprocess.run([bin_folder / command, "--help"], check=True, stdout=subprocess.DEVNULL)
for module in (
    "amma.manifests.build",
    "amma.manifests.labels",
    "amma.manifests.table",
    "amma.featurize.store.reader",
    "amma.featurize.store.verify",
    "amma.evaluate.metrics.exact",
):
    importlib.import_module(module)
    print("imports without torch:", module)
