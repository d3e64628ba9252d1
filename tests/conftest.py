"""Two workers on two cores: each computes with one thread, or they would wait for each other."""

from __future__ import annotations

import os
import signal

import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; programs that are run here inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
