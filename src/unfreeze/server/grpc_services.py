"""TensorFlow Serving's gRPC: PredictionService, ModelService, and the health protocol that probes use."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from unfreeze.errors import ConfigError
from unfreeze.server import inference
from unfreeze.server.engine import Engine
from unfreeze.server.failures import Code, Failure, invalid, not_found
from unfreeze.server.settings import checked_models
from unfreeze.server.versions import Version

HEALTH = "grpc.health.v1.Health"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"  # HealthCheckResponse with its one field
NO_LIMIT = -1
SHOWN = 500  # characters of an error, each of which takes up to twelve bytes
LONGEST_S = 10 * 365 * 86400.0


def grpc_server(engine: Engine, is_serving: Callable[[], bool]) -> grpc.Server:
    """A server with all services, not yet bound to a port."""
    # Of a message that is no message it would write a traceback each time; who sent it is told.
    logging.getLogger("grpc._common").setLevel(logging.CRITICAL)
    settings = engine.settings
    places = settings.max_queued_requests
    server = grpc.server(
        ThreadPoolExecutor(places + 8, thread_name_prefix="grpc"),
        # Those above the gate's limit hear so from the gate; these keep memory level under a flood, and leave
        # places for status and health.
        maximum_concurrent_rpcs=2 * places + 8,
        options=[
            ("grpc.max_receive_message_length", settings.max_request_bytes),
            ("grpc.max_send_message_length", NO_LIMIT),
            ("grpc.so_reuseport", 0),  # else two servers share a port, and nobody is told
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(engine), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(engine), server)
    server.add_generic_rpc_handlers((health_handler(is_serving),))
    return server


def health_handler(is_serving: Callable[[], bool]) -> grpc.GenericRpcHandler:
    """Check of grpc.health.v1, spelled out: its message is one number."""
    check = grpc.unary_unary_rpc_method_handler(lambda request, context: SERVING if is_serving() else NOT_SERVING)
    return grpc.method_handlers_generic_handler(HEALTH, {"Check": check})


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Source: model_servers/prediction_service_impl.cc."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        limit = self.engine.settings.max_request_bytes
        return self._infer(
            "predict", lambda model, run: inference.predict(model, request, run, limit), request, context
        )

    def Classify(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self._infer("classify", lambda model, run: inference.classify(model, request, run), request, context)

    def Regress(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self._infer("regress", lambda model, run: inference.regress(model, request, run), request, context)

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not supported yet: MultiInference")

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return answered(context, lambda: self._metadata(request))

    def _infer(self, api: str, infer: Callable[..., Any], request: Any, context: grpc.ServicerContext) -> Any:
        def answer() -> Any:
            name = request.model_spec.name
            remaining = context.time_remaining()
            deadline = time.monotonic() + (LONGEST_S if remaining is None else min(remaining, LONGEST_S))
            with self.engine.counted(name, api, "GRPC"), self.engine.gate.place(request.ByteSize()):
                version = find(self.engine, request)
                response = infer(
                    version.model,
                    lambda model, signature, inputs, outputs: self.engine.run(
                        model, signature, inputs, outputs, name=name, deadline=deadline
                    ),
                )
            response.model_spec.name = name
            response.model_spec.version.value = version.number
            return response

        return answered(context, answer)

    def _metadata(self, request: Any) -> Any:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        version = find(self.engine, request)
        assert version.model is not None
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for key, definition in version.model.signature_defs.items():
            signatures.signature_def[key].CopyFrom(definition)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version.number
        response.metadata["signature_def"].Pack(signatures)
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Source: model_servers/get_model_status_impl.cc, model_service_impl.cc."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        def answer() -> Any:
            if not request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            name, number, label = spec(request)
            response = get_model_status_pb2.GetModelStatusResponse()
            for version in self.engine.models.states(name, number, label):
                one = response.model_version_status.add(version=version.number, state=version.state.value)
                if version.failure:
                    one.status.error_code = version.failure.code.number
                    one.status.error_message = version.failure.message
                else:
                    one.status.SetInParent()
            return response

        return answered(context, answer)

    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Serve what this config lists instead; answers when it is loaded."""
        response = model_management_pb2.ReloadConfigResponse()
        try:
            self.engine.models.apply(checked_models(request.config, "the request"))
        except ConfigError as error:
            response.status.error_code, response.status.error_message = Code.INVALID_ARGUMENT.number, str(error)
        except Failure as failure:
            response.status.error_code, response.status.error_message = failure.code.number, failure.message
        return response


def answered(context: grpc.ServicerContext, answer: Callable[[], Any]) -> Any:
    """The answer, or the failure as gRPC tells it."""
    try:
        return answer()
    except Failure as failure:
        code, message = failure.code, failure.message
    except Exception as error:  # a defect of ours or of the model: that request fails, and no other
        code, message = Code.INTERNAL, f"{type(error).__name__}: {error}"
    # It goes into a header; a client that gets more than 8 KB there may be told of that, and of nothing else.
    context.abort(GRPC_CODES[code.number], message if len(message) <= SHOWN else f"{message[:SHOWN]}…")
    raise AssertionError("abort raises")


GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


def spec(request: Any) -> tuple[str, int | None, str | None]:
    """(name, version number, label) of a request's model_spec."""
    given = request.model_spec
    choice = given.WhichOneof("version_choice")
    return (
        given.name,
        given.version.value if choice == "version" else None,
        given.version_label if choice == "version_label" else None,
    )


def find(engine: Engine, request: Any) -> Version:
    if not request.model_spec.name:
        raise not_found("Servable not found for request: Latest()")
    return engine.models.find(*spec(request))
