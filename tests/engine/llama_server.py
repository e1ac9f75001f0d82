"""llama.cpp's own HTTP server with a small real model. Runs in the environment that `engines.py` makes.

    python llama_server.py PORT SLOTS MODEL.gguf NAME chat|embed
"""

import sys
import time

import xllamacpp

CONTEXT = 2048


def main(port: str, slots: str, model: str, name: str, purpose: str):
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = model, {name}
    params.hostnames, params.port = ["127.0.0.1"], int(port)
    params.n_parallel, params.n_ctx = int(slots), CONTEXT * int(slots)
    # Several threads a server would only fight for the cores of a test machine.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.endpoint_slots = params.endpoint_metrics = True
    if purpose == "embed":
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(params)
    print("listening on", server.listening_address, flush=True)
    while True:
        time.sleep(3600)


main(*sys.argv[1:])
