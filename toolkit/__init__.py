"""Fine-tune language models by point and click.

Rooms, and what each may import (arrows point one way):

    app.py, pages/ -> ui -> forms, runs, data, ablation, client -> config, validation, rules, errors
    worker -> data, runs.{rundir, events, lock, explain, configfile, durable} -> config, validation, rules, errors

Only `worker` imports torch, transformers, peft, trl, datasets, bitsandbytes or accelerate; only `ui`, `pages` and
`app.py` import streamlit or plotly. `ui` and `worker` never import each other: they meet in a run directory or over
the engine's HTTP. Every folder's `__init__.py` is empty: an import path is a file path.
"""
