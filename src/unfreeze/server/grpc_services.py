"""TensorFlow Serving's gRPC services: PredictionService, ModelService, and the health protocol for probes."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from unfreeze.errors import ConfigError, UnfreezeError
from unfreeze.server import inference
from unfreeze.server.engine import Engine, Entrypoint
from unfreeze.server.loaded import LoadedModel
from unfreeze.server.request_log import LogField
from unfreeze.server.settings import Ssl, checked_models
from unfreeze.server.status import StatusCode, StatusError, invalid, not_found
from unfreeze.server.versions import Version

T = TypeVar("T")
HEALTH = "grpc.health.v1.Health"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"  # HealthCheckResponse with its one field
NO_LIMIT = -1
MAX_MESSAGE_CHARS = 500  # the longest error; a character takes up to twelve bytes in the header
MAX_TIMEOUT_S = 10 * 365 * 86400.0
EXTRA_THREADS = 8  # threads for status and health requests, which admission control does not count
GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


def grpc_server(engine: Engine, is_serving: Callable[[], bool]) -> grpc.Server:
    """Returns a server with all services that is not yet bound to a port."""
    # grpc logs a traceback for each message that it cannot parse; the client receives the error anyway.
    logging.getLogger("grpc._common").setLevel(logging.CRITICAL)
    settings = engine.settings
    max_requests = settings.max_queued_requests
    server = grpc.server(
        ThreadPoolExecutor(max_requests + EXTRA_THREADS, thread_name_prefix="grpc"),
        # Requests above the limit are rejected by admission control. This larger limit bounds the memory under a flood.
        maximum_concurrent_rpcs=2 * max_requests + EXTRA_THREADS,
        options=[
            ("grpc.max_receive_message_length", settings.max_request_bytes),
            ("grpc.max_send_message_length", NO_LIMIT),
            ("grpc.so_reuseport", 0),  # otherwise two servers can share a port without an error
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(engine), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(engine), server)
    server.add_generic_rpc_handlers((health_handler(is_serving),))
    return server


def add_port(server: grpc.Server, address: str, ssl: Ssl | None) -> int:
    """Binds a server to an address, with TLS if there is a key, and returns the port.

    Raises: ConfigError if the key or a certificate is not valid, RuntimeError if the address cannot be bound.
    """
    port: int
    if ssl is None:
        port = server.add_insecure_port(address)
        return port
    credentials = grpc.ssl_server_credentials(
        [(ssl.server_key.encode(), ssl.server_cert.encode())], ssl.custom_ca.encode() or None, ssl.client_verify
    )
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError:
        require_valid(credentials)
        raise
    return port


def require_valid(credentials: grpc.ServerCredentials) -> None:
    """Raises ConfigError if no server can use the credentials: gRPC has one error for these and for ports."""
    server = grpc.server(ThreadPoolExecutor(1))
    try:
        server.add_secure_port("127.0.0.1:0", credentials)
    except RuntimeError as error:
        raise ConfigError(
            "--ssl-config-file: gRPC does not accept server_key, server_cert and custom_ca. Each must be the text of a "
            "PEM file, and the key that of the certificate."
        ) from error
    finally:
        server.stop(None)


def health_handler(is_serving: Callable[[], bool]) -> grpc.GenericRpcHandler:
    """Returns Check of grpc.health.v1. Its response has one field, so no generated code is needed."""
    check = grpc.unary_unary_rpc_method_handler(lambda request, context: SERVING if is_serving() else NOT_SERVING)
    return grpc.method_handlers_generic_handler(HEALTH, {"Check": check})


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """TensorFlow Serving's PredictionService. Source: model_servers/prediction_service_impl.cc."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def Predict(self, request: Any, context: grpc.ServicerContext) -> predict_pb2.PredictResponse:  # noqa: N802
        """Returns the outputs of a signature."""
        limit = self.engine.settings.max_request_bytes
        return self._infer(
            "predict", lambda model, run: inference.predict(model, request, run, limit), request, context
        )

    def Classify(  # noqa: N802
        self, request: Any, context: grpc.ServicerContext
    ) -> classification_pb2.ClassificationResponse:
        """Returns the classes and scores of Examples."""
        return self._infer("classify", lambda model, run: inference.classify(model, request, run), request, context)

    def Regress(self, request: Any, context: grpc.ServicerContext) -> regression_pb2.RegressionResponse:  # noqa: N802
        """Returns one number for each Example."""
        return self._infer("regress", lambda model, run: inference.regress(model, request, run), request, context)

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> None:  # noqa: N802
        """Rejects the call: it is not supported."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not supported yet: MultiInference")

    def GetModelMetadata(  # noqa: N802
        self, request: Any, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Returns the signatures of a version."""
        return respond(context, lambda: self._metadata(request))

    def _infer(
        self,
        api: str,
        infer: Callable[[LoadedModel, inference.RunSignature], T],
        request: Any,
        context: grpc.ServicerContext,
    ) -> T:
        """Runs one inference request with admission control, metrics and the deadline of the client."""

        def response() -> T:
            name = request.model_spec.name
            remaining_s = context.time_remaining()
            deadline = time.monotonic() + (MAX_TIMEOUT_S if remaining_s is None else min(remaining_s, MAX_TIMEOUT_S))
            with (
                self.engine.counted(name, api, Entrypoint.GRPC),
                self.engine.admission.admitted(request.ByteSize()),
            ):
                version = find_version(self.engine, request)
                message = infer(
                    version.loaded_model(),
                    lambda model, signature, inputs, outputs: self.engine.run(
                        model, signature, inputs, outputs, name=name, deadline=deadline
                    ),
                )
            inference.fill_model_spec(message, name, version.number)
            self.engine.request_logs.log_messages(LogField[api.upper()], request, message)
            return message

        return respond(context, response)

    def _metadata(self, request: Any) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        version = find_version(self.engine, request)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        inference.fill_model_spec(response, request.model_spec.name, version.number)
        response.metadata["signature_def"].Pack(version.signature_def_map())
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """TensorFlow Serving's ModelService. Source: model_servers/get_model_status_impl.cc, model_service_impl.cc."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def GetModelStatus(  # noqa: N802
        self, request: Any, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Returns the states of the versions of a model."""
        return respond(context, lambda: self._status(request))

    def HandleReloadConfigRequest(  # noqa: N802
        self, request: Any, context: grpc.ServicerContext
    ) -> model_management_pb2.ReloadConfigResponse:
        """Replaces the served models by those of a config, and responds when they are loaded."""
        response = model_management_pb2.ReloadConfigResponse()
        try:
            self.engine.apply(checked_models(request.config, "the request"))
        except UnfreezeError as error:
            response.status.error_code = StatusCode.INVALID_ARGUMENT.number
            response.status.error_message = str(error)
        except StatusError as error:
            response.status.error_code, response.status.error_message = error.code.number, error.message
        return response

    def _status(self, request: Any) -> get_model_status_pb2.GetModelStatusResponse:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in self.engine.models.known_versions(*model_spec(request)):
            entry = response.model_version_status.add(version=version.number, state=version.state.value)
            if version.error:
                entry.status.error_code = version.error.code.number
                entry.status.error_message = version.error.message
            else:
                entry.status.SetInParent()
        return response


def respond(context: grpc.ServicerContext, response: Callable[[], T]) -> T:
    """Returns the response, or ends the call with the gRPC status of the error that it raises."""
    try:
        return response()
    except StatusError as error:
        code, message = error.code, error.message
    except Exception as error:  # a bug here or in the model: only this request fails
        code, message = StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
    # The message is sent in a header, and clients that receive more than 8 KB there report only that.
    short = message if len(message) <= MAX_MESSAGE_CHARS else f"{message[:MAX_MESSAGE_CHARS]}…"
    context.abort(GRPC_CODES[code.number], short)
    raise AssertionError("abort raises")


def model_spec(request: Any) -> tuple[str, int | None, str | None]:
    """Returns (name, version number, label) of a request's model_spec."""
    spec = request.model_spec
    choice = spec.WhichOneof("version_choice")
    return (
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def find_version(engine: Engine, request: Any) -> Version:
    """Returns the version that a request names. Raises: StatusError NOT_FOUND if there is none."""
    if not request.model_spec.name:
        raise not_found("Servable not found for request: Latest()")
    return engine.models.find(*model_spec(request))
