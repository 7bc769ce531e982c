"""`make demo`: one event per document, three subscribers each, and a model that fails at first.

    python -m example_project.demo [FILE ...] [--broker URL]

Everything runs in this process: an in-memory broker, and a real Celery worker with threads. With
`--broker redis://...` the same program uses Redis.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def default_files() -> list[Path]:
    """Return the project's own README, LICENSE and documentation, and two business documents."""
    names = ("README.md", "LICENSE", "docs/explanation/how-it-works.md")
    samples = ("contract.txt", "invoice.md")
    paths = [ROOT / name for name in names]
    paths += [ROOT / "example_project/sample_documents" / name for name in samples]
    return [path for path in paths if path.exists()]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description="One event, many subscribers.")
    parser.add_argument("files", nargs="*", type=Path, help="text or Markdown files")
    parser.add_argument("--broker", metavar="URL", help="a Redis instead of this process's memory")
    options = parser.parse_args()
    files = options.files or default_files()
    for file in files:
        if not file.is_file():
            parser.error(f"{file} is no file.")
    if options.broker:
        os.environ["BROKER_URL"] = os.environ["RESULT_BACKEND"] = options.broker
    with tempfile.TemporaryDirectory(prefix="celery-fanout-demo-") as folder:
        os.environ["DOCUMENTS_DIR"] = folder
        return run(files)


def run(files: list[Path]) -> int:
    """Emit one event per file, show what happens, and check it."""
    # the app reads the environment when it is imported
    from celery.contrib.testing.worker import start_worker

    from celery_fanout import emit
    from example_project.celery_app import app
    from example_project.documents import storage
    from example_project.show import Show

    app.conf.broker_transport_options = {"polling_interval": 0.02}
    show = Show(files)
    emissions = []
    with start_worker(
        app, pool="threads", concurrency=6, perform_ping_check=False, loglevel="CRITICAL"
    ):
        broker = str(app.connection_for_write().as_uri())
        show.begin("in memory" if broker.startswith("memory:") else broker)
        for file in files:
            document = {"id": storage.put(file), "name": file.name}
            emissions.append(emit("document/uploaded", document, app=app))
        outcomes = [emission.get(timeout=120) for emission in emissions]
        show.wait_for_the_end()
        show.timeline()
        show.results(emissions, outcomes)
        fetched = len(storage.fetches())
        failed = sum(not outcome.ok for found in outcomes for outcome in found)
        show.summary(fetched, failed)
    return 1 if failed or fetched != 3 * len(files) else 0


if __name__ == "__main__":
    sys.exit(main())
