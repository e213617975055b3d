import json
import resource
import shutil

import pytest
import typer
from transformers import BertConfig, CLIPConfig, GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner

from encoder_service.item_text import ItemTemplate
from rpc.errors import InvalidArgument
from rpc.terminal import CommandError
from tests.training.small_models import ROBERTA, make_backbone, make_cross_encoder, make_model
from training import torch_encoder
from training.embeddings import open_encoder
from training.export import export, main
from training.export_options import (
    ExportOptions,
    require_meaning,
    require_parity,
    require_template,
)
from training.model_source import find_model


def run_export(*arguments):
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def one_error_line(result):
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in result.stderr
    return errors[0]


@pytest.fixture(scope="module")
def small_model(tmp_path_factory, minilm_model):
    return make_model(tmp_path_factory.mktemp("models") / "small", minilm_model)


@pytest.fixture
def small_copy(tmp_path, small_model):
    """One that a test may damage."""
    return shutil.copytree(small_model, tmp_path / "damaged")


def language_model(folder, _tokenizer):
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=100)).save_pretrained(
        folder
    )


def images_and_texts(folder, _tokenizer):
    CLIPConfig(architectures=["CLIPModel"]).save_pretrained(folder)


def packaged_images_and_texts(folder, _tokenizer):
    folder.mkdir()
    kind = "sentence_transformers.models.CLIPModel"
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "path": "0_CLIP", "type": kind}]))
    (folder / "config.json").write_text(json.dumps({"architectures": ["CLIPModel"]}))


def empty_folder(folder, _tokenizer):
    folder.mkdir()


def folder_of_other_things(folder, _tokenizer):
    folder.mkdir()
    (folder / "notes.txt").write_text("buy milk")


def three_labels(folder, tokenizer):
    make_cross_encoder(folder, tokenizer, num_labels=3)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (make_backbone, "has no pooling (BertModel), so it makes no embeddings"),
        (language_model, "is a language model (GPT2LMHeadModel)"),
        (images_and_texts, "it reads images too"),
        (packaged_images_and_texts, "it reads images too"),
        (empty_folder, "holds no model"),
        (folder_of_other_things, "holds no model"),
        (three_labels, "has 3 labels; a reranker needs one score a pair"),
    ],
)
def test_a_model_of_another_kind_is_refused_in_one_line_with_a_remedy(
    tmp_path, minilm_model, make, sentence
):
    make(tmp_path / "model", minilm_model)
    result = run_export("--model", tmp_path / "model", "--out", tmp_path / "bundle")
    line = one_error_line(result)
    assert sentence in line
    assert "give a" in line
    assert not (tmp_path / "bundle").exists()


def without_tokenizer(folder):
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "vocab.txt").unlink(missing_ok=True)


def with_half_its_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_broken_modules(folder):
    (folder / "modules.json").write_text("[{")


def with_nameless_modules(folder):
    (folder / "modules.json").write_text("[{}]")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (without_tokenizer, "the model has no vocabulary"),
        (with_half_its_weights, "cannot load"),
        (with_broken_modules, "modules.json cannot be read"),
        (with_nameless_modules, "cannot be read"),
    ],
)
def test_a_damaged_model_is_refused_in_one_line(tmp_path, small_copy, damage, sentence):
    damage(small_copy)
    result = run_export("--model", small_copy, "--out", tmp_path / "bundle")
    assert sentence in one_error_line(result)
    assert not (tmp_path / "bundle").exists()


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path, minilm_model):
    folder = make_model(tmp_path / "model", minilm_model, vocab_size=30_000)
    result = run_export("--model", folder, "--out", tmp_path / "bundle")
    line = one_error_line(result)
    assert "has token id 30521, but the model's embedding table ends at id 29999" in line
    assert "give the model the tokenizer that it was trained with" in line
    assert not (tmp_path / "bundle").exists()


@pytest.fixture
def small_files_only():
    """As a full disk: no file may grow beyond what the graph needs."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files_only")
def test_a_full_disk_is_said_in_one_line_and_leaves_nothing_behind(tmp_path, small_model):
    out = tmp_path / "out" / "bundle"
    line = one_error_line(run_export("--model", small_model, "--out", out, "--quantize", "none"))
    assert line.startswith(f"error: File too large: {tmp_path / 'out'}")
    assert line.endswith("make room, then run the same command again to go on")
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_folder_file_and_a_foreign_output_folder_are_refused(tmp_path):
    result = run_export("--model", tmp_path / "nowhere", "--out", tmp_path / "bundle")
    assert "there is no model folder" in one_error_line(result)
    (tmp_path / "model.bin").write_text("weights")
    result = run_export("--model", tmp_path / "model.bin", "--out", tmp_path / "bundle")
    assert "is a file; give the folder of a model" in one_error_line(result)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("mine")
    result = run_export("--model", "all-MiniLM-L6-v2", "--out", tmp_path / "full")
    assert "holds other files" in one_error_line(result)
    assert (tmp_path / "full" / "diary.txt").read_text() == "mine"


def test_too_many_tokens_are_refused(tmp_path, small_model):
    with pytest.raises(CommandError, match=r"--max-tokens is 99; allowed 8\.\.48"):
        export(ExportOptions(str(small_model), tmp_path / "bundle", max_tokens=99))


def test_a_model_that_fails_at_the_length_it_claims_is_refused(tmp_path, monkeypatch, minilm_model):
    folder = make_model(tmp_path / "model", minilm_model, ROBERTA, max_tokens=512)
    monkeypatch.setattr(torch_encoder, "max_tokens_of", lambda _: 64)
    with pytest.raises(CommandError, match=r"fails on texts cut at 64 tokens.*--max-tokens"):
        export(ExportOptions(str(folder), tmp_path / "bundle"))


def test_a_model_that_pools_without_its_prompt_is_refused_unless_it_has_none(
    tmp_path, minilm_model
):
    folder = make_model(
        tmp_path / "model", minilm_model, include_prompt=False, prompts={"query": "Find: "}
    )
    with pytest.raises(CommandError, match=r"include_prompt=false.*--query-prompt \"\""):
        export(ExportOptions(str(folder), tmp_path / "bundle"))
    source = find_model(str(folder))
    model = torch_encoder.load_model(source)
    torch_encoder.require_prompts_pooled(source, model, {"query": "", "item": ""})
    with pytest.raises(CommandError, match="include_prompt=false"):
        open_encoder(str(folder))


@pytest.mark.parametrize(
    "template",
    [
        *("{title}", "{title}. {brand}", "{a.b} {_c}", "New: {title}", "{title}{title}"),
        *("{title", "title}", "title", "", "{}", "{1st}", "{the title}", "{{title}}", "{title} {"),
        *("{title}}", "}{title}", "{title\n}", "{t{i}tle}"),
    ],
)
def test_an_item_template_is_refused_where_the_encoder_service_would_refuse_it(template):
    try:
        ItemTemplate.parse(template)
    except InvalidArgument:
        with pytest.raises(CommandError, match="fields in braces are needed"):
            require_template(template)
    else:
        require_template(template)


def test_noise_is_not_published_unless_forced():
    with pytest.raises(CommandError, match=r"mean cosine of only 0\.4000"):
        require_meaning("mean cosine", 0.4, forced=False)
    with pytest.raises(CommandError, match="only nan"):
        require_meaning("mean cosine", float("nan"), forced=False)
    require_meaning("mean cosine", 0.4, forced=True)


def test_a_graph_that_differs_from_its_model_is_refused():
    assert require_parity(1e-5) == 1e-5
    assert require_parity(5e-4, largest=9.0) == 5e-4
    with pytest.raises(CommandError, match=r"differs from the model by 0\.0005"):
        require_parity(5e-4)
    with pytest.raises(CommandError, match="differs from the model by nan"):
        require_parity(float("nan"))


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--matryoshka-dims", "64,129", "--matryoshka-dims has 129; allowed 1..128"),
        ("--matryoshka-dims", "half", "numbers with commas are needed"),
        ("--judgements", "nowhere", "this is no BEIR folder"),
        ("--calibration", "empty.txt", "has no text"),
        ("--calibration", "latin.txt", "is not UTF-8 text"),
        ("--item-template", "{title", "--item-template is '{title'; fields in braces are needed"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    tmp_path, monkeypatch, small_model, option, value, sentence
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    result = run_export("--model", small_model, "--out", tmp_path / "bundle", option, value)
    assert sentence in one_error_line(result)
    assert not (tmp_path / "bundle").exists()


def test_a_classifier_that_names_no_labels_is_not_taken_for_a_reranker(tmp_path):
    BertConfig(architectures=["BertForSequenceClassification"]).save_pretrained(tmp_path / "model")
    result = run_export("--model", tmp_path / "model", "--out", tmp_path / "bundle")
    assert "has 2 labels" in one_error_line(result)
