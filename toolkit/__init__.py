"""Fine-tune language models by point and click.

The app (`app.py`, `pages/`, `ui`) never imports torch. It writes a run directory and starts a worker process
(`worker`); the two share files or speak HTTP. docs/architecture.md describes the packages and which of them may import
which; tests/test_architecture.py checks it.
"""
