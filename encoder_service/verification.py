"""What a bundle of either kind makes on this machine's processor, against what it recorded."""

from typing import Any

from encoder_service.bundle import CROSS_ENCODER, EncoderBundle
from encoder_service.encoder import ReferenceCheck, load_encoder
from encoder_service.reranker import PairCheck, load_reranker
from encoder_service.settings import ReferenceSettings
from rpc.cpu import cpu_features
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
        "cpu_features": cpu_features(),
    }


def check_references(bundle: EncoderBundle) -> ReferenceCheck | PairCheck:
    """Load a bundle and compare what its references get here with what was recorded."""
    if bundle.kind == CROSS_ENCODER:
        return load_reranker(bundle).check_references()
    return load_encoder(bundle).check_references()
