"""What a bundle of either kind makes on this machine's processor, against what it recorded."""

from collections.abc import Mapping
from typing import Any

import orjson

from encoder_service.bundle import (
    CROSS_ENCODER,
    ENCODER_FILE,
    EncoderBundle,
    read_description,
)
from encoder_service.encoder import ReferenceCheck, load_encoder
from encoder_service.reranker import PairCheck, load_reranker
from encoder_service.settings import ReferenceSettings
from rpc.cpu import cpu_features
from rpc.files import replace_file
from rpc.terminal import CommandError


def verify_bundle(bundle: EncoderBundle, limits: ReferenceSettings) -> dict[str, Any]:
    """Run a bundle's references here; return what was measured.

    Raises:
        CommandError: it is below a limit.
        VitrineError: a part of the bundle cannot be loaded.
    """
    check = check_references(bundle)
    if told := check.shortfall(limits):
        raise CommandError(
            f"{bundle.folder}: {told}: this processor needs another bundle; export one here"
        )
    return {
        "encoder_id": bundle.encoder_id,
        "name": bundle.name,
        "kind": bundle.kind,
        "verified": True,
        **check.figures(),
        "cpu_features": (here := cpu_features()),
        "verified_here_before": bundle.is_verified_on(here),
    }


def record_verified(bundle: EncoderBundle, figures: Mapping[str, Any]) -> bool:
    """Add this processor to a bundle's verified_on; its id stays. False where it is there already.

    Args:
        bundle: the bundle.
        figures: what `verify_bundle` measured here.
    """
    if bundle.is_verified_on(figures["cpu_features"]):
        return False
    document = read_description(bundle.folder)
    measured = {key: value for key, value in figures.items() if key.startswith("reference_")}
    entry = {"cpu_features": figures["cpu_features"], **measured}
    document["verified_on"] = [*document.get("verified_on", ()), entry]
    content = orjson.dumps(document, option=orjson.OPT_INDENT_2)
    replace_file(bundle.folder / ENCODER_FILE, content)
    return True


def check_references(bundle: EncoderBundle) -> ReferenceCheck | PairCheck:
    """Load a bundle and compare what its references get here with what was recorded."""
    if bundle.kind == CROSS_ENCODER:
        return load_reranker(bundle).check_references()
    return load_encoder(bundle).check_references()
