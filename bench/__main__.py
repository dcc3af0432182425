"""`python -m bench NAME`: one module of this folder, with its own options."""

import importlib
import sys

BENCHES = {
    "generate": "bench.generate",
    "full_size": "bench.full_size",
    "sampling": "bench.sampling",
}


def main() -> None:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in BENCHES:
        importlib.import_module(BENCHES[name]).main(arguments)
        return
    print(f"usage: python -m bench {{{','.join(BENCHES)}}} [--help]")
    sys.exit(0 if name in ("-h", "--help") else 2)


if __name__ == "__main__":
    main()
