"""The forgetting probe: short passages that a model should still predict well after fine-tuning.

For the bundled demo model they are generated like its pretraining text, with a seed that pretraining did not use; for
any other model they are general text written for this project (assets/probe.json).
"""

from __future__ import annotations

import json
from itertools import islice

from toolkit.demo_data.corpus import documents
from toolkit.system.paths import ASSETS

DEMO_CHECKPOINT = "bundled:demo-model"
DEMO_SEED = 918_273  # pretraining uses another one
DEMO_PASSAGES = 48


def read_probe_passages(checkpoint: str) -> list[str]:
    """Return the passages for a base model. checkpoint: its name as in the settings."""
    if checkpoint == DEMO_CHECKPOINT:
        return [text for text, _ in islice(documents(DEMO_SEED), DEMO_PASSAGES)]
    path = ASSETS / "probe.json"
    return [str(text) for text in json.loads(path.read_text(encoding="utf-8"))]
