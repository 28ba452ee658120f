"""Run a command and write how long it took and its peak of resident memory, as JSON: launcher.py RESULT COMMAND…

A process of its own, and a small one, because on Linux a new process begins with the peak of the one that started it.
"""

import json
import os
import subprocess
import sys
import time

result, *command = sys.argv[1:]
began = time.time()
process = subprocess.Popen(command)
_, status, usage = os.wait4(process.pid, 0)
figures = {"began": began, "seconds": time.time() - began, "peak_mb": usage.ru_maxrss / 1024}
with open(result, "w") as file:  # noqa: PTH123  (pathlib alone would double this process)
    json.dump(figures, file)
os._exit(os.waitstatus_to_exitcode(status) & 255)
