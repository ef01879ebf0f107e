"""Flags of tensorflow_model_server that `unfreeze serve` does not have, each with what to do instead.

docs/serve.md has the same table. Source: model_servers/main.cc of tensorflow/serving, 2.21.
"""

# Flag -> what to do instead, as sentences.
UNSUPPORTED_FLAGS = {
    "grpc_socket_path": "Pass --port: gRPC listens on a TCP port only.",
    "rest_api_num_threads": "Pass --max-queued-requests: each request in flight has a thread.",
    "enable_per_model_batching_parameters": "Pass --batching-parameters-file, which is for all models, or start one "
    "server for each model.",
    "num_load_threads": "Remove it: versions are loaded in a thread of their own.",
    "num_unload_threads": "Remove it: versions are unloaded in a thread of their own.",
    "flush_filesystem_caches": "Remove it: the operating system frees its file cache when programs need the memory.",
    "tensorflow_session_parallelism": "Pass --tensorflow-intra-op-parallelism and --tensorflow-inter-op-parallelism.",
    "tensorflow_session_config_file": "Pass --tensorflow-intra-op-parallelism, --tensorflow-inter-op-parallelism, "
    "--per-process-gpu-memory-fraction or --gpu-memory-growth.",
    "use_alts_credentials": "Pass --ssl-config-file.",
    "platform_config_file": "Pass the options of batching, threads and GPU memory.",
    "saved_model_tags": "Remove it: the graph that is tagged serve is loaded.",
    "grpc_channel_arguments": "Remove it. The size of messages is limited by --max-request-bytes.",
    "grpc_max_threads": "Pass --max-queued-requests: each request in flight has a thread.",
    "num_request_iterations_for_warmup": "Repeat the records in assets.extra/tf_serving_warmup_requests: each is "
    "replayed once.",
    "version": "Run: unfreeze --version",
    "remove_unused_fields_from_bundle_metagraph": "Remove it: the graph is freed when it is loaded.",
    "prefer_tflite_model": "Pass the .tflite file as MODEL_BASE_PATH.",
    "num_tflite_pools": "Remove it: a .tflite file runs one request at a time.",
    "num_tflite_interpreters_per_pool": "Remove it: a .tflite file runs one request at a time.",
    "enable_signature_method_name_check": "Call predict, which takes signatures of every method.",
    "xla_cpu_compilation_enabled": "Remove it: functions that a model marks for XLA are compiled.",
    "xla_gpu_compilation_enabled": "Remove it: functions that a model marks for XLA are compiled.",
    "enable_profiler": "Read the latencies in /monitoring/prometheus/metrics.",
    "thread_pool_factory_config_file": "Pass --tensorflow-intra-op-parallelism and --tensorflow-inter-op-parallelism.",
    "mixed_precision": "Export the model with the precision that you want.",
    "skip_initialize_tpu": "Remove it: TPUs are not supported.",
    "enable_grpc_healthcheck_service": "Remove it: the health service is always on.",
    "enable_serialization_as_tensor_content": "Remove it: responses always have tensor_content.",
}
