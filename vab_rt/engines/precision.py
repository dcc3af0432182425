"""What the CPU computes the backbones in: as the bundle has them, or as is asked for."""

from collections.abc import Callable

from vab_rt.bundle import Bundle
from vab_rt.contract import BACKBONES
from vab_rt.errors import BundleError, OptionError

PRECISIONS = ("fp32", "int8")


def check_precision(precision: str, device: str) -> None:
    """Raises OptionError for one that there is not, or not on that device; auto is then the CPU."""
    if precision not in PRECISIONS:
        raise OptionError(
            f"precision is {precision!r}, expected {' or '.join(PRECISIONS)}; choose one, or leave "
            "it out for the model's own"
        )
    if device not in ("auto", "cpu"):
        raise OptionError(
            f"precision {precision} came with device {device}, expected it with cpu: other devices "
            "compute in what the model's files are in; leave one of the two out"
        )


def reader_in(bundle: Bundle, precision: str) -> Callable[[str], bytes]:
    """What reads a graph of a bundle by name, the backbones in a precision; only the products of
    their weights are in int8. Both raise BundleError where the bundle has no such backbones."""
    own = bundle.manifest.precision
    if precision == own:
        return bundle.read_graph
    backbones = [name for name in BACKBONES if name in bundle.needed_graphs]
    if precision == "fp32" and not all(
        name in bundle.manifest.variants.get("fp32", {}) for name in backbones
    ):
        raise BundleError(
            f"{bundle.folder} has its backbones in {own}, expected fp32 as well; leave the "
            "precision out, or export the model again with: python -m export.build_engines "
            "CHECKPOINT --precision int8,fp32"
        )
    if not backbones:
        raise BundleError(
            f"{bundle.folder} is of the kind {bundle.manifest.kind}, expected a model with a "
            f"backbone for {precision}; leave the precision out"
        )

    def read(name: str) -> bytes:
        if name not in backbones or precision == "fp32":
            return bundle.read_graph(name, "fp32")
        from vab_rt.quantisation import in_int8

        exact = bundle.read_graph(name)
        quantised = in_int8(exact)
        if quantised == exact:
            raise BundleError(
                f"graph {name} of {bundle.folder} has no products that int8 is made of, expected "
                "some with float32 weights; leave the precision out, or export the model again"
            )
        return quantised

    return read
