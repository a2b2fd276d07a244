"""The forgetting probe: short passages that a model should still know after fine-tuning, the same for every run.

For the bundled demo model they are of the kind that it was pretrained on (fresh words, a seed that pretraining did not
use); for any other model plain general text of our own, written for this purpose. Knows no model.
"""

from __future__ import annotations

import json
from itertools import islice

from toolkit.demo_data.corpus import documents
from toolkit.system.paths import ASSETS

DEMO_CHECKPOINT = "bundled:demo-model"
DEMO_SEED = 918_273
DEMO_PASSAGES = 48


def read_probe_passages(checkpoint: str) -> list[str]:
    """The texts for a base model, named as in the settings."""
    if checkpoint == DEMO_CHECKPOINT:
        return [text for text, _ in islice(documents(DEMO_SEED), DEMO_PASSAGES)]
    path = ASSETS / "probe.json"
    return [str(text) for text in json.loads(path.read_text(encoding="utf-8"))]
