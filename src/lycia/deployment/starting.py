"""Starting a run: what an operator's machine makes of an app, and sends."""

from pathlib import Path

from lycia.catalogue import check_sendable
from lycia.core.plan import App
from lycia.deployment.node.client import Client
from lycia.deployment.wire import StartMessage
from lycia.runtime.apps import run_name
from lycia.runtime.beginning import first_model, run_id, versions


def start_run(client: Client, app: App, checkpoint: Path | None = None) -> str:
    """Send plan and first model to the coordinator; returns the run's id. The app's code stays here and at the nodes.

    Raises:
      PlanError: if the plan has parts that are not installed, which cannot be sent.
      NotFound, LayoutError, TensorFileError: if the checkpoint is not there, or not a model of this app.
    """
    check_sendable(app.plan)
    layout, model = first_model(app, checkpoint)
    message = StartMessage(
        run=run_id(run_name(app.name)), app=app.name, plan=app.plan.to_json(), layout=layout.to_json(),
        model=client.upload_blob(layout.file(model)), versions=versions(),
        schema_text=app.schema.to_json() if app.schema is not None else None,
    )  # fmt: skip
    return str(client.post("/v1/runs", message)["run"])
