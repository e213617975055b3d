"""Items in full precision, queries in 8 bits: what the items' bundle says of the queries' one.

Generations built with the items' bundle take the entry over, so that the other may ask over them.
"""

from typing import Any

from rpc.terminal import CommandError
from training.beir import DEFAULT_SPLIT
from training.bundle_files import Content, checksums_of, encoder_id
from training.export_options import RECALL_KEPT_MIN, ExportOptions
from training.retrieval_gate import FP32_ITEMS


def require_item_bundle(options: ExportOptions) -> None:
    """Refuse a bundle for items that would be no other than the one for queries.

    Raises:
        CommandError: it would have the same weights, or the same folder.
    """
    if options.item_bundle is None:
        return
    if options.quantization == "none":
        raise CommandError(
            "--item-bundle is what items are embedded with, in full precision, where queries are "
            "in 8 bits; with --quantize none the one bundle does both"
        )
    if options.item_bundle.resolve() == options.out.resolve():
        raise CommandError(f"--item-bundle and --out are both {options.out}; give two folders")


def query_encoder_entry(queries: Content, data: str, *, forced: bool) -> dict[str, Any]:
    """Return what `compatible_query_encoders` of the items' bundle says of the queries' one.

    Args:
        queries: what the bundle in 8 bits is written from, with its gate.
        data: name of the judged collection that the gate measured on.
        forced: whether to say so of a bundle that finds too little.

    Raises:
        CommandError: it keeps too little of full precision's recall@10.
    """
    description = queries.description
    gate = description["gate"]
    found = gate["retrieval"]
    recall, own_recall = (found[f"recall_at_10_{kind}"] for kind in (FP32_ITEMS, "fp32"))
    ndcg, own_ndcg = (found[f"ndcg_at_10_{kind}"] for kind in (FP32_ITEMS, "fp32"))
    kept = recall / own_recall if own_recall else 0.0
    if kept < RECALL_KEPT_MIN and not forced:
        raise CommandError(
            f"INT8 queries keep {kept:.4f} of full precision's recall@10 over items in full "
            f"precision; at least {RECALL_KEPT_MIN} is needed: use --quantize none, or --force "
            "REASON to publish it anyway"
        )
    return {
        "encoder_id": encoder_id(description, checksums_of(queries.files)),
        "name": description["name"],
        "recall_at_10": round(recall, 4),
        "own_recall_at_10": round(own_recall, 4),
        "recall_kept": round(kept, 4),
        "ndcg_at_10": round(ndcg, 4),
        "own_ndcg_at_10": round(own_ndcg, 4),
        "encode_p50_ms": round(gate["short_query_p50_us"] / 1e3, 3),
        "own_encode_p50_ms": round(gate["short_query_p50_us_fp32"] / 1e3, 3),
        "data": data,
        "split": DEFAULT_SPLIT,
        "queries": found["queries"],
        "items": found["items"],
    }
