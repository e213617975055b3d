"""What docs/ lists is what the code has: settings, metrics, calls, reasons of errors."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from encoder_service.metrics import EncoderMetrics
from gateway.metrics import GatewayMetrics
from index_service.metrics import IndexMetrics
from protos.vitrine.v1 import admin_pb2, catalog_pb2, encoder_pb2, index_pb2, search_pb2, types_pb2
from rpc import errors
from rpc.telemetry import RpcMetrics
from tests.docs.pages import DOCS, ROOT, blocks_of, commands_of, names_in, rows_of, section_of

OPERATIONS = DOCS / "operations.md"
API = DOCS / "api.md"
SERVICES = ("gateway", "encoder_service", "index_service", "rpc", "cli")
PROTOS = (search_pb2, catalog_pb2, admin_pb2, encoder_pb2, index_pb2)
METHODS = [
    f"{service.full_name}/{method.name}"
    for proto in PROTOS
    for service in proto.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def sources():
    return [path for name in SERVICES for path in (ROOT / name).rglob("*.py")]


def load_settings_table():
    spec = importlib.util.spec_from_file_location("settings_table", DOCS / "settings_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_setting_is_listed_with_its_default_and_meaning():
    page = OPERATIONS.read_text()
    assert load_settings_table().with_tables(page) == page, "run python docs/settings_table.py"


def test_every_table_of_settings_is_full():
    settings_table = load_settings_table()
    for name, kind in settings_table.SERVICES.items():
        page = settings_table.tables()
        for field in kind.model_fields:
            row = f"| `{field.upper()}` |"
            assert row in page[name] or row in page["common"], f"{name}: {field}"


def test_settings_named_in_text_exist():
    settings_table = load_settings_table()
    known = {
        f"VITRINE_{name.upper()}_{field.upper()}"
        for name, kind in settings_table.SERVICES.items()
        for field in kind.model_fields
    } | {"VITRINE_HOME", "VITRINE_CATALOG", "VITRINE_TEST_BUNDLE"}
    for page in DOCS.glob("*.md"):
        named = set(re.findall(r"\bVITRINE_[A-Z_]*[A-Z]\b", page.read_text()))
        assert named <= known, f"{page.name}: {named - known}"


def exported_metrics():
    """Return name -> (type, labels) of every metric that the services register."""
    encoder_rpc = RpcMetrics("encoder", "0")
    EncoderMetrics(encoder_rpc)
    registries = [
        encoder_rpc.registry,
        GatewayMetrics("0").registry,
        IndexMetrics("shard-0", "0").registry,
    ]
    metrics = {}
    for registry in registries:
        for collector in list(registry._collector_to_names):
            if (name := getattr(collector, "_name", "")).startswith("vitrine_"):
                ending = {"counter": "_total", "info": "_info"}.get(collector._type, "")
                labels = set(collector._labelnames)
                metrics[f"{name}{ending}"] = (collector._type, labels)
    return metrics | watched_metrics()


def watched_metrics():
    """Return the metrics that are registered where a service is put together."""
    text = "".join(
        (ROOT / service / "__main__.py").read_text() for service in ("gateway", "index_service")
    )
    kinds = {"watch": "gauge", "count": "counter"}
    found = re.findall(r'(watch|count)\(\s*"(vitrine_\w+)"', text)
    return {name: (kinds[verb], set()) for verb, name in found}


def listed_metrics():
    rows = [row for row in rows_of(section_of(OPERATIONS, "Metrics")) if len(row) == 4]
    return {names_in(row[0])[0]: (row[1], set(names_in(row[2]))) for row in rows}


def test_every_metric_is_listed_with_its_type_and_labels_and_no_other_is():
    exported = exported_metrics()
    assert len(exported) > 25
    exported["vitrine_service_info"] = ("info", {"role", "version"})
    assert listed_metrics() == exported


def test_every_metric_in_the_sources_is_among_those_compared():
    named = set()
    for path in sources():
        named |= set(re.findall(r'^\s*"(vitrine_[a-z0-9_]+)",?', path.read_text(), re.MULTILINE))
    assert "vitrine_rpc_in_flight" in named
    assert named - {"vitrine_service"} <= exported_metrics().keys()


@pytest.mark.parametrize("method", METHODS)
def test_every_call_is_shown_with_grpcurl(method):
    commands = [
        command
        for block in blocks_of(API)
        if block.language == "sh"
        for command in commands_of(block)
        if "grpcurl -plaintext" in command
    ]
    assert any(re.search(rf"\s{re.escape(method)}(\s|$|\))", command) for command in commands)


@pytest.mark.parametrize("method", METHODS)
def test_every_call_has_a_section(method):
    headings = re.findall(r"^### (.+)$", API.read_text(), re.MULTILINE)
    assert any(method.rpartition("/")[2] in re.split(r"[ ,]+", heading) for heading in headings)


def reasons_raised():
    """Return the reasons of errors in the sources: of classes, and of those raised with one."""
    reasons = {
        kind.reason
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.VitrineError)
        and "reason" in vars(kind)
    }
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _called(node) in (
                "Unavailable",
                "FailedPrecondition",
            ):
                reason = node.args[0]
                assert isinstance(reason, ast.Constant), f"{path}:{node.lineno}"
                reasons.add(reason.value)
    return reasons


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def reasons_listed():
    section = section_of(API, "Errors")
    table, _, commands = section.partition("The reasons (")[2].partition("Commands and start-up")
    listed = {name for row in rows_of(table) for name in names_in(row[0])}
    return listed | {name for name in names_in(commands) if name.isupper()}


def test_every_reason_of_an_error_is_explained_and_no_other_is():
    # What the transport gives as a status alone becomes a reason of the same name.
    assert reasons_listed() == reasons_raised() | {"UNAVAILABLE"}


def test_reasons_named_elsewhere_are_reasons():
    enums = {
        value.name
        for proto in (types_pb2, index_pb2)
        for enum in proto.DESCRIPTOR.enum_types_by_name.values()
        for value in enum.values
    }
    statuses = {
        "FAILED_PRECONDITION", "INVALID_ARGUMENT", "SERVING", "NOT_SERVING",
    }  # fmt: skip
    short = {name.partition("_REASON_")[2] for name in enums if "_REASON_" in name}
    settings_table = load_settings_table()
    settings = {
        field.upper() for kind in settings_table.SERVICES.values() for field in kind.model_fields
    }
    known = reasons_raised() | enums | short | statuses | settings
    for page in (API, OPERATIONS, DOCS / "quickstart.md"):
        named = {
            name for name in names_in(page.read_text()) if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", name)
        }
        assert {name for name in named - known if not name.startswith("VITRINE_")} == set(), (
            page.name
        )


def test_states_and_steps_listed_are_those_of_the_contract():
    text = API.read_text()
    for enum in ("ShardState", "DegradedReason"):
        values = types_pb2.DESCRIPTOR.enum_types_by_name[enum].values
        for value in values:
            assert value.name.endswith("_UNSPECIFIED") or f"`{value.name}`" in text


def test_limits_named_in_the_page_are_those_of_the_code():
    from gateway import query, search_service
    from index_service import filter as index_filter
    from index_service import wire

    text = " ".join(API.read_text().split())
    limits = index_filter.FilterLimits()
    for shown in (
        f"| `text` | 1..{search_service.TEXT_BYTES_MAX:,} bytes",
        f"| `items` | 1..{search_service.LIKE_ITEMS_MAX} positive",
        f"| `top_k` | 1..{query.TOP_K_MAX:,}; absent means {query.TOP_K_DEFAULT} |",
        f"| `params.ef_search` | 1..{search_service.EF_SEARCH_MAX:,};",
        f"1..{search_service.BATCH_MAX} searches in one call",
        f"`fetch_k` 1..{wire.FETCH_K_MAX:,}, `ef_search` 1..{wire.EF_SEARCH_MAX:,}",
        f"Limits: {limits.depth_max} levels, {limits.nodes_max:,} nodes, "
        f"{wire.CHILDREN_MAX} filters in one node, {limits.values_max:,} values",
    ):
        assert shown in text


def test_reasons_of_refused_records_are_listed():
    from gateway.ingest.records import Reason

    section = section_of(DOCS / "data.md", "Records that cannot be used")
    assert [names_in(row[0])[0] for row in rows_of(section)] == [str(reason) for reason in Reason]


def test_the_settings_script_is_where_the_page_says():
    assert Path(DOCS / "settings_table.py").is_file()
    assert "docs/settings_table.py" in OPERATIONS.read_text()
