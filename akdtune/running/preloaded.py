"""What a worker of our own Ray loads as it comes up, while the study is prepared: what its first trial would wait for.

Ray imports this module (`preload_python_modules`); what fails here fails again, and is said, where a trial needs it.
"""

import json
import os
from pathlib import Path

import akdtune.running.worker  # noqa: F401  # torch, Tune
from akdtune.running.ray_start import PRELOADED_LOGGERS
from akdtune.tracking.tracker import prepare

if asked := os.environ.get(PRELOADED_LOGGERS):
    told = json.loads(asked)
    prepare(told["tracking"], Path(told["root"]))
