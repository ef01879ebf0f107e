"""Uploads model.tar.gz and creates the SageMaker resources that serve it, from the JSON files beside this script.

    python deploy.py --role ROLE_ARN --bucket BUCKET          prints the API calls
    python deploy.py --role ROLE_ARN --bucket BUCKET --yes    makes them
    python deploy.py ... --mode serverless | async | batch    instead of a real-time endpoint

For a multi-model endpoint it uploads the model to the endpoint's prefix, and creates what does not exist yet.

With --yes it needs boto3 and AWS credentials.
"""

import argparse
import json
import os
import sys
from typing import Any, NamedTuple

HERE = os.path.dirname(os.path.abspath(__file__))
MODES = ("real-time", "serverless", "async", "batch")
NAME_KEYS = {
    "create_model": "ModelName",
    "create_endpoint_config": "EndpointConfigName",
    "create_endpoint": "EndpointName",
}


class Call(NamedTuple):
    """A call of boto3: `boto3.client(service).method(**arguments)`."""

    service: str
    method: str
    arguments: "dict[str, Any]"


def main() -> None:
    """Prints the API calls, or makes them with --yes."""
    options = _parse_options()
    try:
        calls = _calls(options)
        if options.yes:
            _make(calls, options)
            return
        for call in calls:
            print(f"{call.service}.{call.method}({json.dumps(call.arguments, indent=2)})")
        print("nothing was done: run with --yes to make these calls")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        sys.exit(f"error: {lines[0]}")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", help="ARN of the IAM role that SageMaker assumes")
    parser.add_argument("--bucket", help="S3 bucket for model.tar.gz and for the input and output of async and batch")
    parser.add_argument("--mode", choices=MODES, default="real-time", help="what to create (default: real-time)")
    parser.add_argument("--yes", action="store_true", help="make the API calls instead of printing them")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until the endpoint is in service")
    return parser.parse_args()


def _read_document(name: str, options: argparse.Namespace) -> Any:
    """Returns the content of a JSON file beside this script, with the role and the bucket filled in."""
    if not os.path.isfile(os.path.join(HERE, name)):
        raise ValueError(
            f"--mode {options.mode}: this package has no {name}, since the model or the kind of endpoint does not "
            "allow this mode. Choose another mode, such as real-time."
        )
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        text = file.read()
    for placeholder, flag, value in (
        ("${ROLE_ARN}", "--role", options.role),
        ("${BUCKET}", "--bucket", options.bucket),
    ):
        if placeholder in text:
            if not value:
                raise ValueError(f"{name}: {flag} is missing. Run deploy.py with {flag}.")
            text = text.replace(placeholder, json.dumps(value)[1:-1])
    return json.loads(text)


def _calls(options: argparse.Namespace) -> "list[Call]":
    """Returns the API calls in order."""
    model = _read_document("create-model.json", options)
    bucket, key = model["PrimaryContainer"]["ModelDataUrl"][len("s3://") :].split("/", 1)
    if model["PrimaryContainer"].get("Mode") == "MultiModel":  # the key is the prefix of all models of the endpoint
        key += _read_document("invoke-endpoint.json", options)["TargetModel"]
    archive = os.path.join(HERE, "model.tar.gz")
    calls = [
        Call("s3", "upload_file", {"Filename": archive, "Bucket": bucket, "Key": key}),
        Call("sagemaker", "create_model", model),
    ]
    if options.mode == "batch":
        return [*calls, Call("sagemaker", "create_transform_job", _read_document("transform-job.json", options))]
    config = _read_document(f"endpoint-config-{options.mode}.json", options)
    endpoint = dict(_read_document("endpoint.json", options), EndpointConfigName=config["EndpointConfigName"])
    if options.mode != "real-time":  # an endpoint cannot change its mode, so each mode has its own
        endpoint["EndpointName"] += "-" + options.mode
    return [
        *calls,
        Call("sagemaker", "create_endpoint_config", config),
        Call("sagemaker", "create_endpoint", endpoint),
    ]


def _make(calls: "list[Call]", options: argparse.Namespace) -> None:
    """Makes the calls, except those that would create what exists, and waits for the endpoint."""
    import boto3

    region = _read_document("create-model.json", options)["PrimaryContainer"]["Image"].split(".")[3]
    clients = {service: boto3.client(service, region_name=region) for service in ("s3", "sagemaker")}
    for service, method, arguments in calls:
        client = clients[service]
        existing = _existing(client, method, arguments)
        if existing is not None and method == "create_endpoint" and not _has_same_config(existing, arguments):
            method = "update_endpoint"  # switches to the new configuration without downtime
        elif existing is not None:
            print(f"exists already: {arguments[NAME_KEYS[method]]}")
            continue
        print(f"{service}.{method}")
        getattr(client, method)(**arguments)
    if options.mode == "batch":
        print(f"transform job {calls[-1].arguments['TransformJobName']} started")
        return
    endpoint = calls[-1].arguments["EndpointName"]
    if not options.no_wait:
        print(f"waiting until {endpoint} is in service")
        clients["sagemaker"].get_waiter("endpoint_in_service").wait(EndpointName=endpoint)
    print(f"endpoint {endpoint}")
    if calls[1].arguments["PrimaryContainer"].get("Mode") == "MultiModel":
        print(f"model {_read_document('invoke-endpoint.json', options)['TargetModel']} (the TargetModel of requests)")


def _existing(client: Any, method: str, arguments: "dict[str, Any]") -> Any:
    """Returns the description of what a call would create if it exists by that name, else None."""
    key = NAME_KEYS.get(method)
    if key is None:
        return None
    describe = getattr(client, method.replace("create_", "describe_"))
    try:
        return describe(**{key: arguments[key]})
    except client.exceptions.ClientError as error:
        if error.response["Error"]["Code"] in ("ValidationException", "ResourceNotFound"):
            return None  # SageMaker's errors for a name that does not exist
        raise


def _has_same_config(endpoint: Any, arguments: "dict[str, Any]") -> bool:
    return bool(endpoint["EndpointConfigName"] == arguments["EndpointConfigName"])


if __name__ == "__main__":
    main()
