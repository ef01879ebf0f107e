"""Uploads model.tar.gz and creates what serves it on SageMaker, from the documents beside this file.

    python deploy.py --role ROLE_ARN --bucket BUCKET                         tells what would be done
    python deploy.py --role ROLE_ARN --bucket BUCKET --yes                   does it
    python deploy.py ... --mode serverless | async | batch                   instead of a real-time endpoint

Needs boto3 and AWS credentials for --yes, and nothing else.
"""

import argparse
import json
import os
import sys
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
MODES = ("real-time", "serverless", "async", "batch")


def main() -> None:
    """Tells or makes the calls, in order."""
    options = _options()
    try:
        calls = _calls(options)
        if not options.yes:
            for service, name, arguments in calls:
                print(f"{service}.{name}({json.dumps(arguments, indent=2)})")
            print("nothing was done: give --yes to do it")
            return
        _carry_out(calls, options)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        told = str(error).splitlines() or [type(error).__name__]
        sys.exit(f"error: {told[0]}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", help="ARN of the role that SageMaker assumes")
    parser.add_argument("--bucket", help="S3 bucket for model.tar.gz, and for what async and batch read and write")
    parser.add_argument("--mode", choices=MODES, default="real-time")
    parser.add_argument("--yes", action="store_true", help="do it, instead of telling it")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until the endpoint answers")
    return parser.parse_args()


def _document(name: str, options: argparse.Namespace) -> Any:
    """A document beside this file, with the role and the bucket put in."""
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        text = file.read()
    for key, value in (("${ROLE_ARN}", options.role), ("${BUCKET}", options.bucket)):
        if key in text:
            if not value:
                flag = "--role" if "ROLE" in key else "--bucket"
                raise ValueError(f"{name} needs {flag}")
            text = text.replace(key, json.dumps(value)[1:-1])
    return json.loads(text)


def _calls(options: argparse.Namespace) -> list:
    """Each call: the service, the name of boto3's method, its arguments."""
    model = _document("create-model.json", options)
    bucket, key = model["PrimaryContainer"]["ModelDataUrl"][len("s3://") :].split("/", 1)
    archive = os.path.join(HERE, "model.tar.gz")
    calls = [
        ("s3", "upload_file", {"Filename": archive, "Bucket": bucket, "Key": key}),
        ("sagemaker", "create_model", model),
    ]
    if options.mode == "batch":
        return [*calls, ("sagemaker", "create_transform_job", _document("transform-job.json", options))]
    config = _document(f"endpoint-config-{options.mode}.json", options)
    endpoint = dict(_document("endpoint.json", options), EndpointConfigName=config["EndpointConfigName"])
    if options.mode != "real-time":  # an endpoint cannot change its kind
        endpoint["EndpointName"] += "-" + options.mode
    return [
        *calls,
        ("sagemaker", "create_endpoint_config", config),
        ("sagemaker", "create_endpoint", endpoint),
    ]


def _carry_out(calls: list, options: argparse.Namespace) -> None:
    import boto3

    region = _document("create-model.json", options)["PrimaryContainer"]["Image"].split(".")[3]
    clients = {service: boto3.client(service, region_name=region) for service in ("s3", "sagemaker")}
    for service, name, arguments in calls:
        there = _described(clients[service], name, arguments)
        if there is not None and name == "create_endpoint" and not _same_config(there, arguments):
            name = "update_endpoint"  # to the new configuration, without a pause
        elif there is not None:
            print(f"there already: {next(iter(arguments.values()))}")
            continue
        print(f"{service}.{name}")
        getattr(clients[service], name)(**arguments)
    if options.mode == "batch":
        job = calls[-1][2]["TransformJobName"]
        print(f"transform job {job} started")
        return
    endpoint = calls[-1][2]["EndpointName"]
    if not options.no_wait:
        print(f"waiting for {endpoint}")
        clients["sagemaker"].get_waiter("endpoint_in_service").wait(EndpointName=endpoint)
    print(f"endpoint {endpoint}")


def _described(client: Any, name: str, arguments: dict) -> Any:
    """What a call would create, if it is there already by its name, else None."""
    kind = name[len("create_") :]
    key = {"model": "ModelName", "endpoint_config": "EndpointConfigName", "endpoint": "EndpointName"}.get(kind)
    if not name.startswith("create_") or key is None:
        return None
    try:
        return getattr(client, "describe_" + kind)(**{key: arguments[key]})
    except client.exceptions.ClientError as error:
        if error.response["Error"]["Code"] in ("ValidationException", "ResourceNotFound"):
            return None  # how SageMaker says that there is none
        raise


def _same_config(there: dict, wanted: dict) -> bool:
    return bool(there["EndpointConfigName"] == wanted["EndpointConfigName"])


if __name__ == "__main__":
    main()
