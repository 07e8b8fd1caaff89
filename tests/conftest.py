"""Hypothesis profiles (HYPOTHESIS_PROFILE=dev|ci|full) and the quiet that every test runs in."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

# The machines that run this are slow and shared, so no example has a deadline; `derandomize` keeps a red gate red.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("dev", max_examples=20, **_COMMON)
settings.register_profile("ci", max_examples=50, derandomize=True, **_COMMON)
settings.register_profile("full", max_examples=1000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

# Workers share the cores: more threads than cores wait for each other at every barrier. Set before anything imports
# torch or a BLAS.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("NO_COLOR", "1")
os.environ.pop("COLUMNS", None)  # parallel workers inherit the width of the terminal that the run has
if not Path("/dev/nvidiactl").exists():  # without a GPU triton interprets kernels: decided when they are defined
    os.environ["TRITON_INTERPRET"] = "1"
