"""`python -m bench NAME`: one module of this folder, with its own options."""

import importlib
import subprocess
import sys

from vab_rt.errors import VabError

BENCHES = {
    "generate": "bench.generate",
    "editing": "bench.editing",
    "serve": "bench.serve",
    "hosts": "bench.hosts",
    "timeline": "bench.timeline",
    "full_size": "bench.full_size",
    "pareto": "bench.pareto",
    "sampling": "bench.sampling",
    "peers": "bench.peers.comparison",
    "foleygen": "bench.foleygen",
    "gpu": "bench.gpu",
    "v2a_mapper": "bench.v2a_mapper",
    "profile": "bench.profiling",
    "installed": "bench.installed",
    "record": "bench.record",
    "figures": "bench.figures",
}
OURS = ("bench", "export", "training", "vab_rt")


def main() -> None:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in BENCHES:
        try:
            importlib.import_module(BENCHES[name]).main(arguments)
        except VabError as error:
            sys.exit(f"error: {error}")
        except subprocess.CalledProcessError as error:  # it has printed why
            command = " ".join(map(str, error.cmd))
            sys.exit(f"error: a command of bench {name} exits {error.returncode}: {command}")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in OURS:
                raise
            sys.exit(
                f"error: bench {name} needs {error.name}; install it with: pip install '.[dev]'"
            )
        except KeyboardInterrupt:
            sys.exit(130)
        return
    print(f"usage: python -m bench {{{','.join(BENCHES)}}} [--help]")
    sys.exit(0 if name in ("-h", "--help") else 2)


if __name__ == "__main__":
    main()
