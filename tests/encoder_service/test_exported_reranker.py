import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from encoder_service.bundle import load_bundle
from encoder_service.reranker import load_reranker
from encoder_service.settings import EncoderSettings
from tests.encoder_service.test_service import Served
from tests.training.small_models import make_cross_encoder
from training.export import export
from training.export_options import ExportOptions

QUERY = "warm coat for women"
TEXTS = ["Winter parka, down, for women", "Linen dress", "Rubber hose 20 m", "boots " * 200]


@pytest.mark.parametrize("quantization", ["none", "int8"])
async def test_rerank_serves_what_the_exporter_wrote(
    tmp_path, minilm_model, minilm_bundle, encoder, quantization
):
    model = make_cross_encoder(tmp_path / "model", minilm_model)
    export(ExportOptions(str(model), tmp_path / "bundle", quantization=quantization))
    reranker = load_reranker(load_bundle(tmp_path / "bundle"))
    expected = CrossEncoder(str(model), device="cpu").predict(
        [(QUERY, text) for text in TEXTS], activation_fn=torch.nn.Identity()
    )
    settings = EncoderSettings(bundle=minilm_bundle, reranker_bundle=tmp_path / "bundle")
    async with Served(encoder, settings, reranker) as served:
        served.open()
        answer = await served.rerank(QUERY, TEXTS)
    assert answer.reranker_id == reranker.bundle.encoder_id
    limit = 1e-4 if quantization == "none" else 0.1 * float(np.ptp(reranker.references.scores))
    np.testing.assert_allclose(answer.scores, expected, atol=limit)
