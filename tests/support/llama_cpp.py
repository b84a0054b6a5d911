"""Ask llama.cpp about a GGUF file: ``python llama_cpp.py FILE IDS TEXTS`` prints the greedy next tokens and the ids of each text, as JSON.

In a process of its own, because llama.cpp ends it when it meets a file that it cannot use.
"""

import json
import sys
from urllib.request import Request, urlopen

import xllamacpp


def main(path, prompt, texts, count=24):
    """Print the answers of llama.cpp's own server."""
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = path, 128, 1, False
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32  # half precision otherwise
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(settings)

    def post(place, **body):
        request = Request(server.listening_address + place, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(request) as answer:
            return json.load(answer)["tokens"]

    said = post("/completion", prompt=prompt, n_predict=count, temperature=0.0, top_k=1, return_tokens=True, ignore_eos=True)
    print(json.dumps([said, [post("/tokenize", content=text, add_special=False, parse_special=True) for text in texts]]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]))
