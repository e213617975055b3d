import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

import encoder_service.item_text
import encoder_service.reranker
import encoder_service.vector_cache
from encoder_service.item_text import ItemTemplate
from protos.vitrine.v1.types_pb2 import AttributeValue, Item, KeywordList
from rpc.errors import InvalidArgument

MODULES = [encoder_service.item_text, encoder_service.reranker, encoder_service.vector_cache]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples_in_the_documentation_hold(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


def test_texts_attributes_and_missing_fields():
    item = Item(
        title="Rain boots",
        texts={"description": "Keep\tfeet\n dry."},
        attributes={
            "brand": AttributeValue(keyword="Acme"),
            "colors": AttributeValue(keywords=KeywordList(values=["navy", "red"])),
            "size": AttributeValue(number=7.5),
        },
    )
    template = ItemTemplate.parse("{brand} {title} {colors} {size} {material} {description}")
    assert template.render(item) == "Acme Rain boots navy red 7.5 Keep feet dry."


def test_a_field_is_filled_in_once_even_if_its_value_has_braces():
    item = Item(title="{brand}", attributes={"brand": AttributeValue(keyword="Acme")})
    assert ItemTemplate.parse("{title}").render(item) == "{brand}"


@pytest.mark.parametrize(
    "template", ["", "no field", "{title", "title}", "{}", "{a b}", "{{title}}"]
)
def test_template_without_proper_fields_is_refused(template):
    with pytest.raises(InvalidArgument, match="item_template"):
        ItemTemplate.parse(template)


@given(st.text(), st.text())
def test_rendered_text_has_single_spaces_only(title, brand):
    item = Item(
        title=title.encode(errors="ignore").decode(),
        texts={"brand": brand.encode(errors="ignore").decode()},
    )
    text = ItemTemplate.parse("{title}   {brand} ").render(item)
    assert text == " ".join(text.split())
