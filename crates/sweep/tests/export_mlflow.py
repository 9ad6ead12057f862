"""Opens an export with the real MLflow and compares it with what `sweep query` says.

Arguments: folder of the export, file with the rows of `results`, file with the rows of `curves`, file with the rows of
`accuracy_over_epsilon`, each as JSON, and a path for the database that MLflow makes of the folder.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
from mlflow.tracking import MlflowClient

folder, results, curves, accuracies, database = sys.argv[1:]
results, curves, accuracies = (json.load(open(path)) for path in (results, curves, accuracies))
STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED", "running": "RUNNING"}
NUMBERS = ["clean", "robust", "expected_robustness", "validation_clean", "delay", "clean_drop", "train_seconds"]
CURVES = ["epsilon", "learning_rate", "train_loss", "train_accuracy", "clean_accuracy", "robust_accuracy", "train_seconds"]


def check(address):
    client = MlflowClient(address)
    experiments = [one for one in client.search_experiments() if one.name != "Default"]
    found = client.search_runs([one.experiment_id for one in experiments], max_results=1000)
    assert len(found) == len(results), (len(found), len(results))
    runs = {run.info.run_id: run for run in found}
    for row in results:
        run = runs[row["id"]]
        assert run.info.status == STATUS.get(row["state"], "SCHEDULED"), run.info.status
        assert run.data.params["target_epsilon"] == row["target_epsilon"]
        assert run.data.params["epsilon_schedule"] == row["epsilon_schedule"]
        assert run.data.tags["sweep.state"] == row["state"]
        assert int(run.data.tags["sweep.attempts"]) == row["attempts"]
        for number in range(1, row["attempts"] + 1):
            assert json.loads(run.data.tags[f"sweep.attempt.{number}"])["state"]
        for name in NUMBERS:
            assert run.data.metrics.get(name) == row[name], (name, run.data.metrics.get(name), row[name])
        for name in CURVES:
            history = client.get_metric_history(row["id"], f"epoch/{name}")
            expected = [(e["epoch"], e[name]) for e in curves if e["id"] == row["id"] and e[name] is not None]
            assert sorted((point.step, point.value) for point in history) == sorted(expected), name
            assert all(point.timestamp > 0 for point in history)
        history = client.get_metric_history(row["id"], "accuracy_over_255ths")
        expected = [
            (round(p["epsilon_value"] * 255), p["accuracy"])
            for p in accuracies
            if p["id"] == row["id"] and (p["epsilon"] == "0" or p["epsilon"].endswith("/255"))
        ]
        assert sorted((point.step, point.value) for point in history) == sorted(expected)
        artifacts = [artifact.path for artifact in client.list_artifacts(row["id"])]
        assert artifacts == ["spec.json"], artifacts
        with tempfile.TemporaryDirectory() as into:
            spec = json.load(open(client.download_artifacts(row["id"], "spec.json", into)))
        assert spec["seed"] == row["seed"]
    return experiments


def serve(address, experiments):
    """Asks a real server through its REST interface."""
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", address, "--port", "0", "--workers", "1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        port = next(found[1] for line in server.stdout if (found := re.search(r"running on http://[^:]+:(\d+)", line)))
        body = json.dumps({"experiment_ids": [one.experiment_id for one in experiments], "max_results": 1000})
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search", body.encode(), {"Content-Type": "application/json"}
        )
        answer = json.load(urllib.request.urlopen(request, timeout=60))
        assert len(answer["runs"]) == len(results)
        clean = {run["info"]["run_id"]: {m["key"]: m["value"] for m in run["data"].get("metrics", [])} for run in answer["runs"]}
        for row in results:
            assert clean[row["id"]].get("clean") == row["clean"]
    finally:
        server.terminate()
        server.wait()


serve(folder, check(f"file:{folder}"))
subprocess.run(
    [sys.executable, "-m", "mlflow", "migrate-filestore", "--source", folder, "--target", f"sqlite:///{database}"],
    check=True,
    capture_output=True,
)
del os.environ["MLFLOW_ALLOW_FILE_STORE"]
serve(f"sqlite:///{database}", check(f"sqlite:///{database}"))
print("checked")
