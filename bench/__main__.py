"""`python -m bench NAME`: one module of this folder, with its own options."""

import importlib
import sys

from vab_rt.errors import VabError

BENCHES = {
    "generate": "bench.generate",
    "full_size": "bench.full_size",
    "sampling": "bench.sampling",
    "peers": "bench.peers.comparison",
    "gpu": "bench.gpu",
    "v2a_mapper": "bench.v2a_mapper",
    "profile": "bench.profiling",
    "installed": "bench.installed",
}


def main() -> None:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in BENCHES:
        try:
            importlib.import_module(BENCHES[name]).main(arguments)
        except VabError as error:
            sys.exit(f"error: {error}")
        return
    print(f"usage: python -m bench {{{','.join(BENCHES)}}} [--help]")
    sys.exit(0 if name in ("-h", "--help") else 2)


if __name__ == "__main__":
    main()
